"""LogRatioPath: networks in closed form against quadrature, with every sampler."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from inprocess import complete
from steps.identities import DECODED, DISC, ENCODED, GUIDED, REAL, SCORE

from dgflow import (
    DDIM,
    DDPM,
    RK45,
    BestOf,
    Boost,
    ClosedForm,
    DiscriminatorGuidance,
    EDMAblation,
    Gain,
    GaussianMixture,
    Generate,
    Heun,
    LogRatioPath,
    MixturePoints,
    MixtureRatio,
    MixtureScore,
    TrainDiscriminator,
)
from dgflow.diffusion import mixtures, observer
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.observer import Observer
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.specs.figures import Lines
from dgflow.steps.mechanism import path_values
from dgflow.steps.systems import Networks
from dgflow.store.open import open_store
from dgflow.testing.smoke import smoke

DATA = GaussianMixture(means=((-1.5, 0.0), (1.5, 0.0)), stds=(0.5, 0.5), weights=(0.5, 0.5))
WRONG = GaussianMixture(means=((-1.2, 0.6), (1.8, -0.9)), stds=(0.6, 0.6), weights=(0.6, 0.4))
SCORED = ClosedForm(network=MixtureScore(mixture=WRONG)).weights()
EXACT = ClosedForm(network=MixtureRatio(real=DATA, model=WRONG)).weights()
GUIDE = DiscriminatorGuidance(discriminator=EXACT, weight=1.0, second_order_weight=1.0, tau_min=0.0)
COUNT, LOW, HIGH = 256, 0.05, 10.0


def samples(sampler: Any = None, *guidance: Any, **fields: Any) -> Any:
    sampler = sampler or Heun(steps=18, sigma_min=0.02, sigma_max=20)
    return Generate(score=SCORED, sampler=sampler, guidance=guidance, seed=3, **fields)[:COUNT]


def path(arms: dict[str, Any], **fields: Any) -> LogRatioPath:
    given: dict[str, Any] = {"discriminator": EXACT, "real": MixturePoints(mixture=DATA, seed=4)[:COUNT]}
    given |= {"sigma_min": LOW, "sigma_max": HIGH, "levels": 8}
    return LogRatioPath(arms=arms, **given | fields)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return open_store(str(tmp_path_factory.mktemp("path") / "root"))


def measured(step: LogRatioPath, store) -> dict[str, Any]:
    complete(step, store)
    return json.loads(result_of(step, store))


def check(values: dict[str, Any], mixture: GaussianMixture, least: int, share: float = 1.0) -> None:
    """Checks that the log-ratios are those of the mixture's noisy points, by quadrature, within 4.5 standard
    errors, in at least `least` ranges of noise levels; `share` of the points were observed in each of them.
    """
    assert len(values["sigma"]) >= least and min(values["images"]) >= share * COUNT
    numbers = zip(*(values[name] for name in ("sigma", "mean", "std", "images")), strict=True)
    for sigma, mean, std, count in numbers:
        x, weight = mixtures.nodes(mixture, sigma, 24)
        ratio = mixtures.log_ratio(DATA, WRONG, x, torch.full((len(x),), sigma, dtype=torch.float64))
        expected = float((weight * ratio).sum())
        spread = math.sqrt(float((weight * ratio.square()).sum()) - expected**2)
        assert abs(mean - expected) < 4.5 * std / math.sqrt(count) + 0.02 * spread
        assert std == pytest.approx(spread, rel=0.25)


@pytest.fixture(scope="module")
def content(store) -> dict[str, Any]:
    return measured(path({"unguided": samples(), "guided": samples(None, GUIDE)}), store)


def test_real_images_have_the_log_ratio_of_the_data_and_samples_that_of_the_model(content):
    check(content["real"], DATA, 8)
    check(content["arms"]["unguided"], WRONG, 6)
    check(content["arms"]["guided"], DATA, 6)  # with the exact ratio, samples have the data's distribution
    # The two Kullback-Leibler divergences of noisy points.
    assert content["real"]["mean"][0] > 0.5 and content["arms"]["unguided"]["mean"][0] < -0.5


@pytest.mark.parametrize(
    ("sampler", "least"),
    [
        (Heun(steps=18, sigma_min=0.02, sigma_max=20, S_churn=6.0), 6),
        (EDMAblation(steps=40, sigma_min=0.02, sigma_max=20, solver="euler", schedule="linear"), 7),
        (DDIM(respacing="50"), 7),
        (DDPM(respacing="100"), 7),
        (RK45(tolerance=1e-5), 8),
    ],
    ids=["churned", "ablation", "ddim", "ddpm", "rk45"],
)
def test_every_sampler_can_be_looked_at(sampler, least, store):
    found = measured(path({"unguided": samples(sampler)}), store)
    check(found["arms"]["unguided"], WRONG, least, share=0.6 if isinstance(sampler, RK45) else 1.0)


@pytest.mark.parametrize("sampler", [Heun(steps=6, S_churn=2.0), DDPM(respacing="10"), RK45(tolerance=1e-2)])
def test_looking_on_changes_no_sample_by_a_bit(sampler, store):
    boosted = GUIDE.model_copy(update={"boost": Boost(), "tau_min": 0.1})
    step = samples(sampler, boosted).step
    inputs = complete(step[:16], store)
    networks = Networks(inputs, torch.device("cpu"), "float32")
    model = networks.score("score", SCORED)
    (term,) = networks.terms(step.guides, {})
    assert isinstance(term, DiscriminatorTerm)
    draw = step.draws(inputs, 0, 16)(torch.arange(16))
    looking = Observer(term.discriminator, term.time)
    plain, seen = (
        sampler.sample(model, draw.latents, draw.asked, terms, draw.noise)
        for terms in ([term], [term, looking])
    )
    assert torch.equal(plain.x, seen.x) and torch.equal(plain.log_ratio, seen.log_ratio)
    assert (plain.nfe, plain.guidance_nfe) == (seen.nfe, seen.guidance_nfe)
    sigma, ratio = looking.at([1.0, 2.0, 2.1])
    seen_there = sigma.isfinite()
    assert seen_there.any() and torch.equal(seen_there, ratio.isfinite())
    assert ((sigma[:, 0] >= 1) & (sigma[:, 0] <= 2))[seen_there[:, 0]].all()
    made = step.shard_builder(inputs)(0, 16)
    assert (made["latent"] == plain.x.to(torch.float16).numpy()).all()


def test_samples_of_a_shared_block_have_the_path_that_they_were_drawn_on(store):
    """Also holds if the slice begins or ends within a block, whose samples share their step sizes."""
    step = samples(RK45(tolerance=1e-2, shared_block=8), shard_size=40).step

    def followed(start: int, stop: int) -> list[np.ndarray]:
        observing = path({"unguided": step[start:stop]})
        paths = observing._paths()
        measure = paths.measurer(complete(observing, store))
        pieces = [measure(item) for item in paths.items if item[0]]
        return [np.array([row for piece in pieces for row in piece[part]]) for part in (0, 1)]

    for whole, part in zip(followed(0, 24), followed(4, 20), strict=True):
        np.testing.assert_array_equal(part, whole[4:20])


def test_log_ratios_that_are_not_finite_are_refused(store, monkeypatch):
    step = path({"unguided": samples()})
    nothing = lambda discriminator, x, *rest, **fields: x.new_full((len(x),), math.nan)  # noqa: E731
    for module, item, where in (
        (path_values, (None, 0), "the real images"),
        (observer, ("unguided", 0), "arm 'unguided'"),
    ):
        measure = step._paths().measurer(complete(step, store))
        monkeypatch.setattr(module, "log_ratio_at", nothing)
        with pytest.raises(FloatingPointError, match=f"found NaN or infinity in {where} of log-ratio-path"):
            measure(item)


def test_it_reads_networks_and_no_samples_and_the_plan_counts_them(tmp_path):
    step = path({"unguided": samples(), "guided": samples(None, GUIDE)})
    networks = {"score", "guidance.0.discriminator"}
    assert set(step.inputs()) == {
        *("real", "discriminator", "arms.guided.guidance.1.discriminator"),
        *(f"arms.{arm}.{name}" for arm in step.arms for name in networks),
    }
    states = plan(step, open_store(str(tmp_path)))
    assert "generate" not in {state.step.kind for state in states}
    assert states[-1].evaluations == 2 * 35 * COUNT
    assert [(each.network.kind, each.use, each.times) for each in states[-1].work] == [
        ("closed-form", "forward", 8 * COUNT),  # real images
        ("closed-form", "forward", 35 * COUNT),
        ("closed-form", "forward", 18 * COUNT),  # observing, at the first order of each step
        ("closed-form", "forward", 35 * COUNT),
        ("closed-form", "gradient", 35 * COUNT),
        ("closed-form", "forward", 18 * COUNT),
    ]


def test_what_gain_chooses_identifies_the_paths_too(store):
    points = MixturePoints(mixture=DATA, seed=4)[:200]
    gain = Gain(score=SCORED, discriminator=EXACT, real=points, sigma_min=0.05, sigma_max=20.0)
    guide = GUIDE.model_copy(update={"weight": gain.result(), "second_order_weight": "gain"})
    step = path({"guided": samples(None, guide)}, real=points)
    (name, choice), *others = step.choices(complete(step, store)).items()
    assert name == "arms.guided.guidance.0.by_gain" and not others
    assert choice.weight == pytest.approx(1.0, abs=0.3)


def test_its_figures_have_real_images_and_arms_in_the_order_of_the_recipe(content):
    step = path({"unguided": samples(), "guided": samples(None, GUIDE)})
    means, spreads = step.figures(json.dumps(content).encode())
    assert isinstance(means, Lines) and isinstance(spreads, Lines)
    for figure in (means, spreads):
        assert [curve.label for curve in figure.curves] == ["real", "unguided", "guided"]
    real = content["real"]
    assert list(spreads.curves[0].y) == real["std"] and means.curves[0].error is not None
    assert means.curves[0].error[0] == pytest.approx(real["std"][0] / math.sqrt(COUNT))


def of_trained(**fields: Any) -> LogRatioPath:
    given = {"arms": {"guided": GUIDED[:10]}, "discriminator": DISC.last(), "real": REAL[90:100]}
    return LogRatioPath(**given | fields)


def test_samples_behind_decoded_images_are_followed():
    latents = DECODED.latents
    step = LogRatioPath(
        arms={"decoded": DECODED[: latents.rows]},
        discriminator=TrainDiscriminator(
            real=ENCODED[:100], fake=latents, conditional=False, batch_size=8
        ).last(),
        real=ENCODED[100:110],
    )
    assert step.observed["decoded"].score == latents.step.score  # type: ignore[attr-defined]


def test_real_images_that_the_discriminator_was_trained_on_are_warned_of():
    assert of_trained().cautions() == []
    (line,) = of_trained(real=REAL[:100]).cautions()
    assert line.startswith("real: train-discriminator was trained on 90 of the 100 samples")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (dict(arms={}), "arms: expected one or more, by name, found none"),
        (
            dict(arms={"real": REAL[:9]}),
            "arms.real: expected samples of Generate or Translate, or images dec",
        ),
        (
            dict(arms={"one": GUIDED[:1]}),
            "arms.one: expected two images or more, whose spread is shown, found 1",
        ),
        (
            dict(arms={"best": samples(selection=BestOf(discriminator=EXACT))}),
            "arms.best: expected samples without a selection.*best of 4 .*; leave the arm out",
        ),
        (dict(real=ENCODED[:9]), "arms.guided: expected a score network for the real ones' 18 channels"),
        (dict(discriminator=SCORE.last()), "expected a TrainDiscriminator or a Pretrained"),
    ],
)
def test_paths_that_cannot_be_followed_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        of_trained(**fields)


def test_its_smoke_run_follows_a_few_samples():
    toy = smoke(of_trained(), "memory://smoke").target
    assert isinstance(toy, LogRatioPath) and toy.arms["guided"].rows == 8
