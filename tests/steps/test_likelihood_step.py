"""Likelihood as a step: against closed forms, its draws, its refusals; and the steps beside a table."""

from __future__ import annotations

import json
import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from inprocess import complete
from scipy.stats import norm
from steps.identities import DECODED, DISC, LATENTS, NOISY, REAL, SCORE
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import dgflow as dg
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.report.outcome import Outcome
from dgflow.specs.figures import Lines, Table
from dgflow.specs.network import DataShape
from dgflow.specs.step import SampleStep
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store

DATA = dg.GaussianMixture(means=((-0.5, 0.2), (0.5, 0.0)), stds=(0.15, 0.2), weights=(0.3, 0.7))
MODEL = dg.GaussianMixture(means=((-0.4, 0.1), (0.6, 0.1)), stds=(0.25, 0.2), weights=(0.6, 0.4))
POINTS = dg.MixturePoints(mixture=DATA, seed=4)
EXACT = dg.ClosedForm(network=dg.MixtureRatio(real=DATA, model=MODEL)).weights()
GUIDED = dg.DiscriminatorGuidance(discriminator=EXACT, tau_min=0.0)
ARMS = {"model": (), "guided": (GUIDED,)}


class PixelMixture(dg.MixtureScore):
    """The score of a mixture, for images of one pixel."""

    gives_latents: ClassVar[bool] = False


class Pixels(SampleStep):
    """Images of one pixel with two channels, all in one quarter of the range of values."""

    @property
    def shape(self) -> DataShape:
        return DataShape(1, 2, 0)

    def shard_builder(self, inputs):
        def rows(start: int, stop: int):
            index = np.arange(start, stop)
            image = 170 + (index[:, None] * [37, 11]) % 40
            return {"index": index, "label": index * 0 - 1, "image": image.astype(np.uint8)[:, None, None]}

        return rows


def score_of(mixture: dg.GaussianMixture, network: Any = dg.MixtureScore) -> Any:
    return dg.ClosedForm(network=network(mixture=mixture)).weights()


def likelihood(**fields: Any) -> dg.Likelihood:
    own = {"score": score_of(MODEL), "arms": ARMS, "real": POINTS[:60], "dequantise": False}
    return dg.Likelihood(**own | {"sigma_min": 0.02, "sigma_max": 80.0, "divergence": "exact"} | fields)


def measured(step: dg.Likelihood) -> dict[str, Any]:
    store = MemoryStore(step.name)
    complete(step, store)
    return json.loads(result_of(step, store))


def bits(mixture: dg.GaussianMixture, points: torch.Tensor, sigma: float) -> torch.Tensor:
    """Returns -log2 of the density of noisy points per dimension, by torch's distributions."""
    stds = torch.tensor(mixture.stds).double().square().add(sigma**2).sqrt()[:, None].expand(-1, 2)
    parts = Independent(Normal(torch.tensor(mixture.means).double(), stds), 1)
    density = MixtureSameFamily(Categorical(torch.tensor(mixture.weights)), parts)
    return -density.log_prob(points) / (2 * math.log(2))


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return measured(likelihood(noised=False, truncations=(0.3,)))


def points_of(count: int) -> torch.Tensor:
    rows = POINTS.shard_builder(None)(0, count)  # type: ignore[arg-type]
    return torch.from_numpy(rows["latent"][:, :, 0, 0]).double()


def test_the_likelihood_of_a_mixture_is_that_of_its_density_and_guidance_by_the_exact_ratio_that_of_the_data(
    found,
):
    for name, mixture in (("model", MODEL), ("guided", DATA)):
        for number, level in enumerate((0.02, 0.3)):
            expected = bits(mixture, points_of(60), level)
            arm = found["arms"][name]
            assert arm["nll"][number] == pytest.approx(float(expected.mean()), abs=5e-4)
            assert arm["nll_error"][number] == pytest.approx(float(expected.std()) / 60**0.5, abs=5e-4)


def test_the_change_of_an_arm_is_image_by_image(found):
    change = bits(DATA, points_of(60), 0.02) - bits(MODEL, points_of(60), 0.02)
    guided = found["arms"]["guided"]
    assert guided["nll_change"][0] == pytest.approx(float(change.mean()), abs=1e-3)
    assert guided["nll_change_error"][0] == pytest.approx(float(change.std()) / 60**0.5, abs=1e-3)
    assert "nll_change" not in found["arms"]["model"]


def test_noisy_images_have_the_likelihood_that_their_bound_is_of(found):
    """The bound is that of images with noise of the truncation's level, and equals their likelihood for an
    exact score."""
    noisy = measured(
        likelihood(
            arms={"guided": (GUIDED,)}, truncations=(0.3,), real=POINTS[:200], times=32, tolerance=1e-4
        )
    )
    draws = torch.from_numpy(np.random.default_rng(1).standard_normal((400, 200, 2)))
    for number, level in enumerate((0.02, 0.3)):
        expected = bits(DATA, points_of(200) + level * draws, level).mean(dim=0)
        for method in ("nll", "nelbo"):
            arm = noisy["arms"]["guided"]
            error = arm[f"{method}_error"][number]
            assert abs(arm[method][number] - float(expected.mean())) < 4 * error < 0.5


def test_hutchinsons_estimate_agrees_with_the_exact_divergence(found):
    estimate = measured(
        likelihood(noised=False, methods=("nll",), divergence="hutchinson", repeats=4, tolerance=1e-3)
    )
    change, error = (
        estimate["arms"]["guided"]["nll_change"][0],
        found["arms"]["guided"]["nll_change_error"][0],
    )
    assert change == pytest.approx(found["arms"]["guided"]["nll_change"][0], abs=error)
    assert "nelbo" not in estimate["arms"]["model"]


def test_pixels_have_the_bits_of_their_probability():
    """The probability of a pixel is the integral of the density over the values that round to it."""
    wide = dg.GaussianMixture(means=((0.0, 0.0),), stds=(0.3,), weights=(1.0,))
    step = likelihood(
        score=score_of(wide, PixelMixture),
        arms={"model": ()},
        real=Pixels()[:100],
        dequantise=True,
        noised=False,
        sigma_min=0.002,
        methods=("nll",),
        repeats=4,
        tolerance=1e-4,
    )
    pixels = Pixels().shard_builder(None)(0, 100)["image"].astype(float)  # type: ignore[arg-type]
    inside = norm(0.0, math.hypot(0.3, 0.002)).cdf
    probability = inside((pixels + 0.5) / 127.5 - 1) - inside((pixels - 0.5) / 127.5 - 1)
    assert measured(step)["arms"]["model"]["nll"][0] == pytest.approx(-np.log2(probability).mean(), abs=2e-3)


def test_an_images_likelihood_does_not_depend_on_the_others():
    from dgflow.steps.judging.likelihood_values import Meter, span

    def values(step: dg.Likelihood) -> Any:
        return Meter(step, complete(step, MemoryStore(step.name)), span(step), 64)(("guided", 0))

    step = likelihood(real=POINTS[:8], times=2, tolerance=1e-3)
    whole = values(step)
    part = values(step.model_copy(update={"real": POINTS[5:8], "batch_size": 2}))
    for method in ("nll", "nelbo"):
        assert part[method] == pytest.approx(whole[method][5:8], abs=1e-6)
    other = values(step.model_copy(update={"seed": 1}))
    assert (np.abs(other["nll"] - whole["nll"]) > 1e-4).all()


def test_gain_can_choose_the_weight_of_an_arm():
    gain = dg.Gain(score=score_of(MODEL), discriminator=EXACT, real=POINTS[60:160], sigma_max=20.0)
    by_gain = GUIDED.model_copy(update={"weight": gain.result()})
    fields: dict[str, Any] = {"real": POINTS[:4], "tolerance": 1e-2, "methods": ("nll",)}
    step = likelihood(arms={"by gain": (by_gain,)}, **fields)
    (choice,) = step.choices(complete(step, MemoryStore(step.name))).values()
    assert choice.weight is not None and 0.5 < choice.weight < 1.5
    chosen = GUIDED.model_copy(update={"weight": choice.weight})
    found = [measured(likelihood(arms={"an arm": (term,)}, **fields)) for term in (by_gain, chosen)]
    assert found[0] == found[1]


def test_the_page_has_a_table_and_curves_and_an_arm_its_columns(found):
    step = likelihood(noised=False, truncations=(0.3,))
    outcome = Outcome(step, json.dumps(found).encode())
    table, *curves = outcome.figures
    assert isinstance(table, Table) and [row[0] for row in table.rows] == ["model", "guided"]
    assert table.rows[0][3] == "" and table.rows[1][3].startswith("-")
    assert [curve.label for curve in curves[0].curves] == [  # type: ignore[union-attr]
        "NLL, guided",
        "NELBO, guided",
        "NLL, model",
        "NELBO, model",
    ]
    assert all(isinstance(figure, Lines) for figure in curves) and len(curves) == 2
    arm = outcome.arms["guided"]
    assert list(arm) == ["nll", "nelbo"] and arm["nll"]["mean"] == found["arms"]["guided"]["nll"][0]
    assert arm["nll"]["errors"] == found["arms"]["guided"]["nll_error"][:1]
    assert list(step.quantities) == ["nll", "nelbo"]


def test_arms_in_another_order_share_the_file_and_the_page_names_the_arm_that_changes_are_from(found):
    first, swapped = (
        likelihood(noised=False, truncations=(0.3,), arms={name: ARMS[name] for name in names})
        for names in (("model", "guided"), ("guided", "model"))
    )
    assert swapped.fingerprint == first.fingerprint
    table, _, changes = swapped.figures(json.dumps(found).encode())
    assert isinstance(table, Table) and "NLL: change from model" in table.heading
    assert [row[0] for row in table.rows] == ["guided", "model"] and table.rows[0][3].startswith("-")
    assert changes.title == "Change from model by truncation"  # type: ignore[union-attr]


def test_the_plan_knows_the_cost(tmp_path):
    step = likelihood(real=POINTS[:10], repeats=2, times=5, truncations=(0.1, 0.3))
    (goal,) = (each for each in plan(step, open_store(str(tmp_path / "root"))) if each.step == step)
    points = 10 * 2 * 3
    assert goal.evaluations == points * (2 * (100 + 350) + 2 * 5)  # two arms, two dimensions
    by_use = {(work.network.title, work.use): work.times for work in step.work(1) if work.times}
    assert by_use[EXACT.step.title, "gradient"] == points * (2 * 2 * 350 + 5)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dequantise": True}, r"expected images, whose pixels have a likelihood, found the latents"),
        ({"sigma_min": 0.5, "truncations": (0.3,)}, "rise from sigma_min over truncations to sigma_max"),
        ({"real": POINTS[:1]}, "expected at least two images, found 1"),
        ({"score": NOISY.last()}, "expected a score network|expected a TrainScore"),
        (
            {"arms": {"boosted": (GUIDED.model_copy(update={"boost": dg.Boost()}),)}},
            "arm 'boosted': guidance.0: expected guidance without a boost",
        ),
        (
            {"arms": {"other": (dg.DiscriminatorGuidance(discriminator=DISC.last()),)}},
            "arm 'other': guidance.0: expected a network for the score network's samples",
        ),
    ],
)
def test_what_has_no_likelihood_is_refused(fields, expected):
    with pytest.raises(ValueError, match=expected):
        likelihood(**fields)


def pretrained(precond: str) -> Any:
    network = dg.DhariwalUNet(precond=precond, attn_resolutions=())  # type: ignore[arg-type]
    return dg.Pretrained(
        source="net.safetensors", network=network, image_size=8, channels=1, num_classes=3
    ).weights()


@pytest.mark.parametrize(
    ("precond", "fields", "expected"),
    [
        ("ve", {"sigma_min": 0.001}, r"expected noise levels from 0.02 to 100, .* found 0.001 to 80"),
        ("ve", {"truncations": (0.01,)}, "truncations that rise between 0.02 and 80"),
        ("iddpm", {}, "expected a network of continuous noise levels"),
    ],
)
def test_a_network_without_an_ode_at_these_levels_is_refused(precond, fields, expected):
    from dgflow.steps.judging.likelihood_values import span

    score = pretrained(precond)
    with pytest.raises(ValueError, match=expected):
        span(dg.Likelihood(score=score, arms={"unguided": ()}, real=REAL[:100], **fields))


def test_images_that_a_discriminator_was_trained_on_are_told():
    arms: dict[str, Any] = {"guided": (dg.DiscriminatorGuidance(discriminator=DISC.last()),)}
    seen = dg.Likelihood(score=SCORE.last(), arms=arms, real=REAL[80:120])
    told = seen.cautions()
    assert any("train-discriminator was trained on 10 of the 40 real images" in line for line in told)
    assert dg.Likelihood(score=SCORE.last(), arms=arms, real=REAL[200:240]).cautions() == []


def heun_arms(**guidance: Any) -> dict[str, Any]:
    term = dg.DiscriminatorGuidance(discriminator=DISC.last(), tau_min=0.02, **guidance)
    sampler = dg.Heun(sigma_min=0.05, sigma_max=40)
    return {
        "plain": (dg.Generate(score=SCORE.last(), sampler=sampler, seed=3)[:10],),
        "guided": (dg.Generate(score=SCORE.last(), sampler=sampler, guidance=(term,), seed=3)[:10],),
    }


def test_beside_a_table_stands_the_likelihood_of_its_arms_as_their_ode_has_it():
    (result,) = dg.beside(heun_arms(weight=2.0, boost=dg.Boost()), real=REAL[:100], likelihood=30)
    step = result.step
    assert isinstance(step, dg.Likelihood) and step.real == REAL[70:100]
    assert (step.sigma_min, step.sigma_max, step.truncations) == (0.05, 40.0, (0.1, 0.3))
    assert step.arms["plain"] == ()
    (term,) = step.arms["guided"]
    assert isinstance(term, dg.DiscriminatorGuidance)
    assert (term.weight, term.second_order_weight, term.boost, term.tau_min) == (1.0, 0.0, None, 0.02)
    assert dg.beside(heun_arms(), real=REAL[:100]) == ()


def test_a_sampler_of_one_order_guides_by_the_first_weight():
    term = dg.DiscriminatorGuidance(discriminator=DISC.last(), weight=2.0)
    arms = {"guided": (dg.Generate(score=SCORE.last(), sampler=dg.RK45(), guidance=(term,))[:10],)}
    (result,) = dg.beside(arms, real=REAL[:100], likelihood=2)
    assert result.step.arms["guided"][0].weight == 2.0  # type: ignore[attr-defined]
    assert result.step.sigma_min is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (dg.EDMAblation(), 1.0),
        (dg.EDMAblation(alpha=0.8), 0.75),
        (dg.EDMAblation(alpha=0.5), 0.0),  # the midpoint rule
        (dg.EDMAblation(solver="euler"), 2.0),
    ],
)
def test_the_weight_of_the_flow_is_the_mean_with_the_shares_of_a_steps_two_slopes(sampler, expected):
    term = dg.DiscriminatorGuidance(discriminator=DISC.last(), weight=2.0, second_order_weight=0.0)
    arms = {"guided": (dg.Generate(score=SCORE.last(), sampler=sampler, guidance=(term,))[:10],)}
    (result,) = dg.beside(arms, real=REAL[:100], likelihood=2)
    assert result.step.arms["guided"][0].weight == pytest.approx(expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arms", "count", "expected"),
    [
        (heun_arms(), 101, "likelihood: expected 2 to 100 real images, .* found 101"),
        ({"decoded": (DECODED[:10],)}, 10, "expected arms of Generate with a score network of pixels"),
        ({"latents": (LATENTS[:10],)}, 10, "the likelihood of latents is not that of the images"),
        (
            heun_arms() | {"other": (dg.Generate(score=SCORE.epoch(1))[:10],)},
            10,
            "expected arms of one score network and one range of noise levels, found arm 'other'",
        ),
        (
            heun_arms(weight=dg.Switch(above=1.0, below=0.0, timestep=100)),
            10,
            "expected weights of both orders that are numbers, or equal",
        ),
    ],
)
def test_what_cannot_stand_beside_a_table_is_refused(arms, count, expected):
    with pytest.raises(ValueError, match=expected):
        dg.beside(arms, real=REAL[:100], likelihood=count)
