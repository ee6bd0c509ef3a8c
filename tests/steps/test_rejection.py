"""Rejection in recipes: what is made, recorded, planned and refused."""

from __future__ import annotations

import json
import os
import signal
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from inprocess import complete
from steps.identities import DISC, FAKES, PATH, POINTS, SCORE, THRESHOLDS
from steps.test_clean_discriminator import CLEAN

import dgflow as dg
from dgflow.diffusion.selection.chains import Chains
from dgflow.diffusion.selection.rejection import Chain
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store

REAL = dg.GaussianMixture(means=((-1.0, 0.5), (1.0, 0.0)), stds=(0.3, 0.3), weights=(0.25, 0.75))
MODEL = dg.GaussianMixture(means=((-1.1, 0.4), (0.9, 0.1)), stds=(0.35, 0.35), weights=(0.6, 0.4))
SCORES = dg.ClosedForm(network=dg.MixtureScore(mixture=MODEL)).weights()
RATIO = dg.ClosedForm(network=dg.MixtureRatio(real=REAL, model=MODEL)).weights()
OTHER = dg.ClosedForm(network=dg.MixtureScore(mixture=REAL)).weights()
HEUN = dg.Heun(steps=8, S_churn=4.0, S_max=50.0)
AGAIN = dg.RestartInterval(points=3, repeats=2, sigma_min=0.3, sigma_max=1.0)
PATHS = (dg.Heun(steps=6), dg.Restart(steps=6, restarts=(AGAIN,)))


def generate(**fields: Any) -> dg.Generate:
    return dg.Generate(**{"score": SCORES, "sampler": HEUN, "shard_size": 160, "seed": 3} | fields)


def thresholds(quantile: float = 0.75, **fields: Any) -> Any:
    return dg.RejectionThresholds(
        samples=generate(seed=1, **fields)[:64], discriminator=RATIO, quantile=quantile
    ).result()


def rejecting(system: dict[str, Any] | None = None, batch: int = 256, **fields: Any) -> dg.Generate:
    own = {"discriminator": RATIO, "thresholds": thresholds(**system or {})} | fields
    return generate(**system or {}, selection=dg.Rejection(**own), batch_size=batch)


def rows(step: Any, store: ObjectStore, start: int = 0, stop: int = 128) -> dict[str, np.ndarray]:
    return step.shard_builder(complete(step, store))(start, stop)


@pytest.fixture(autouse=True)
def _wide_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgflow.diffusion.selection.chains.PARTS", 4)


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore("rejection")


def test_more_samples_come_from_where_the_real_ones_are(store):
    plain, found = rows(generate(), store), rows(rejecting(), store)
    right, before = ((each["latent"][:, 0] > 0).mean() for each in (found, plain))
    assert before == pytest.approx(0.4, abs=0.1)
    assert before + 0.1 < right < 0.85


def test_samples_do_not_depend_on_the_batch_or_the_shard(store):
    """Up to the rounding of other batches, as for any sample."""
    whole = rows(rejecting(), store, 0, 64)
    narrow, part = rows(rejecting(batch=3), store, 0, 64), rows(rejecting(), store, 16, 48)
    for other, indices in ((narrow, slice(0, 64)), (part, slice(16, 48))):
        for name in ("index", "label", "score_evaluations", "discriminator_evaluations"):
            np.testing.assert_array_equal(other[name], whole[name][indices])
        np.testing.assert_allclose(other["latent"], whole["latent"][indices], atol=1e-3)
        np.testing.assert_allclose(other["log_ratio"], whole["log_ratio"][indices], atol=1e-5)


def exact_log_ratio(x: np.ndarray) -> np.ndarray:
    def density(mixture: dg.GaussianMixture) -> np.ndarray:
        square = ((x[:, None] - np.array(mixture.means)) ** 2).sum(2)
        variance = np.array(mixture.stds) ** 2
        return (np.array(mixture.weights) / variance * np.exp(-square / (2 * variance))).sum(1)

    return np.log(density(REAL)) - np.log(density(MODEL))


def test_the_log_ratio_of_a_sample_is_that_at_its_end(store):
    settings: tuple[dict[str, Any], ...] = ({}, {"max_backsteps": 4}, {"at": "end"})
    for selection in settings:
        found = rows(rejecting(**selection), store, 0, 32)
        expected = exact_log_ratio(found["latent"][:, :, 0, 0].astype(float))
        np.testing.assert_allclose(found["log_ratio"], expected, atol=0.02)  # latents are float16


def test_thresholds_are_measured_without_the_samples_and_say_where(store):
    step = thresholds().step
    assert list(step.inputs()) == ["samples.score", "discriminator"]
    complete(step, store)
    found = json.loads(result_of(step, store))
    assert found["levels"][0] == 80.0 and found["levels"][-1] == 0.0
    assert len(found["first"]) == len(found["again"]) == len(found["levels"]) == HEUN.steps + 1
    assert (found["samples"], found["quantile"], found["floor"]) == (64, 0.75, True)
    stricter = thresholds(0.9).step
    complete(stricter, store)
    assert np.greater_equal(json.loads(result_of(stricter, store))["again"], found["again"]).all()


def test_the_thresholds_of_finished_samples_are_quantiles_of_their_log_ratio(store):
    step = thresholds().step
    complete(step, store)
    latents = rows(generate(seed=1), store, 0, 64)["latent"].astype(float)[:, :, 0, 0]
    expected = np.quantile(exact_log_ratio(latents), 0.75)
    assert json.loads(result_of(step, store))["again"][-1] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("sampler", PATHS, ids=lambda sampler: type(sampler).__name__)
def test_every_sampler_of_fixed_steps_walks_its_own_path(store, sampler):
    system = {"sampler": sampler, "guidance": (dg.NetworkGuidance(network=OTHER, weight=1.2, sigma_min=0.3),)}
    found, part = (rows(rejecting(system), store, *ends) for ends in ((0, 16), (4, 12)))
    np.testing.assert_allclose(part["latent"], found["latent"][4:12], atol=1e-3)
    for name in ("score_evaluations", "guide_evaluations", "discriminator_evaluations"):
        np.testing.assert_array_equal(part[name], found[name][4:12])
    assert found["guide_evaluations"].shape == (16, 1)
    assert found["score_evaluations"].min() >= sampler.nfe > found["guide_evaluations"].min() > 0


def test_a_shard_that_is_killed_in_mid_rejection_is_made_again_to_the_last_bit(tmp_path):
    """The process is killed by SIGKILL, in the second of two shards."""
    part = rejecting().model_copy(update={"shard_size": 16})[:32]
    root, untouched = (open_store(str(tmp_path / name)) for name in ("root", "untouched"))
    if (pid := os.fork()) == 0:
        test, number = Chains._test, count()

        def fatal(chains: Chains, tested: list[Chain]) -> None:
            if tested[0].index >= 16 and next(number) == 9:
                os.kill(os.getpid(), signal.SIGKILL)
            test(chains, tested)

        Chains._test = fatal  # type: ignore[assignment, method-assign]
        complete(part, root)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    digests = []
    for store in (root, untouched):
        steps = Root(store).step_store(part.step)
        assert len(steps.newest("shards")) == (store is root)
        complete(part, store)
        receipts = steps.receipts(list(steps.newest("shards").values()))
        digests.append({receipt.number: receipt.rows_sha256 for receipt in receipts})
    assert digests[0] == digests[1] and len(digests[0]) == 2


def test_the_plan_counts_about_two_passes_and_a_look_at_every_position(store):
    step = rejecting().model_copy(update={"shard_size": 8})
    (state,) = plan(step[:8], store)[-1:]
    assert [(work.network.name, work.use, work.times) for work in state.work] == [
        (SCORES.name, "forward", 8 * 2 * 15),
        (RATIO.name, "forward", 8 * 2 * 9),
    ]
    pilot = thresholds().step.work(1)
    assert [(work.network.name, work.use, work.times) for work in pilot] == [
        (SCORES.name, "forward", 64 * 15),
        (RATIO.name, "forward", 64 * 9),
    ]
    assert step.title == "generate seed 3, by rejection"


def test_a_discriminator_of_clean_images_decides_about_finished_samples():
    measured = dg.RejectionThresholds(samples=FAKES[100:200], discriminator=CLEAN.last())
    assert measured.cautions() == []
    own: dict[str, Any] = {"discriminator": CLEAN.last(), "thresholds": measured.result()}
    step = dg.Generate(score=SCORE.last(), selection=dg.Rejection(at="end", **own))
    assert step.title == "generate seed 0, by rejection of finished samples"
    assert [work.times for work in measured.work(1)][-1] == 100
    with pytest.raises(ValueError, match='found .* clean images.*: test finished samples, with at="end"'):
        dg.Generate(score=SCORE.last(), selection=dg.Rejection(**own))


def test_a_pilot_that_the_discriminator_was_trained_on_is_warned_of():
    """Also warned under another name, since batches change no draws. Ten of the hundred fakes are held
    out."""
    (line,) = THRESHOLDS.model_copy(update={"samples": FAKES[80:120]}).cautions()
    assert line.startswith("samples: train-discriminator was trained on 10 of these 40 samples")
    again = FAKES.model_copy(update={"batch_size": 7})
    assert len(THRESHOLDS.model_copy(update={"samples": again[:50]}).cautions()) == 1
    assert THRESHOLDS.model_copy(update={"samples": again[90:140]}).cautions() == []


def system(**fields: Any) -> dg.Generate:
    """Returns the system with thresholds of the usual system."""
    return dg.Generate(
        **{
            "score": SCORE.last(),
            "selection": dg.Rejection(discriminator=DISC.last(), thresholds=THRESHOLDS.result()),
        }
        | fields
    )


def select(**fields: Any) -> dg.Generate:
    own: dict[str, Any] = {"discriminator": DISC.last(), "thresholds": THRESHOLDS.result()}
    return system(selection=dg.Rejection(**own | fields))


WITHOUT_CLASSES = dg.Generate(score=SCORE.model_copy(update={"conditional": False}).last())
ADAPTIVE = dg.Generate(score=SCORE.last(), sampler=dg.RK45())
REFUSED = {
    "no discriminator": (
        lambda: dg.Rejection(thresholds=THRESHOLDS.result()),  # type: ignore[call-arg]
        "discriminator",
    ),
    "no thresholds": (lambda: dg.Rejection(discriminator=DISC.last()), "thresholds"),  # type: ignore[call-arg]
    "another step": (
        lambda: select(thresholds=PATH.result()),
        "selection.thresholds: expected the result of RejectionThresholds, found that of a log-ratio-path",
    ),
    "another sampler": (
        lambda: system(sampler=dg.Heun(steps=30)),
        r"expected those of this step's sampler, Heun\(steps=30\), found those of Heun\(steps=18\): measure",
    ),
    "another kind of sampler": (
        lambda: system(sampler=dg.DDIM()),
        "expected those of this step's sampler, DDIM, found those of Heun: measure",
    ),
    "another network": (
        lambda: system(score=SCORE.epoch(2)),
        r"this step's score network, .*\(epoch:2\), found",
    ),
    "another guidance": (
        lambda: system(guidance=(dg.EpsilonScaling(factor=1.01),)),
        "this step's guidance, a scaled prediction of the noise, found those of none",
    ),
    "another discriminator": (
        lambda: select(discriminator=DISC.epoch(2)),
        "this step's discriminator, .*epoch:2",
    ),
    "no path": (lambda: system(sampler=dg.RK45()), "sampler with steps fixed in advance.*found RK45.*BestOf"),
    "a small budget": (
        lambda: select(budget=34),
        "selection.budget: expected at least the 35 evaluations of one pass of Heun, found 34",
    ),
    "too far back": (
        lambda: select(backsteps=2),
        "at most min_backsteps . 1.*found 2.*set min_backsteps to 1",
    ),
    "no test": (lambda: select(min_backsteps=3, max_backsteps=3), "expected min_backsteps < max_backsteps"),
    "no step behind": (
        lambda: select(min_backsteps=18),
        "selection.min_backsteps: expected fewer than the 18 steps of Heun, found 18: no step",
    ),
    "a pilot of one sample": (
        lambda: THRESHOLDS.model_copy(update={"samples": FAKES[200:201]}),
        "samples: expected two or more, .* found 1",
    ),
    "a pilot without the classes that the discriminator is told": (
        lambda: THRESHOLDS.model_copy(update={"samples": WITHOUT_CLASSES[:100]}),
        "discriminator: expected one without classes, .* found one of 3: train it with conditional=False",
    ),
    "steps at the end": (
        lambda: select(at="end", min_backsteps=1),
        'min_backsteps: expected none with at="end"',
    ),
    "real images": (
        lambda: THRESHOLDS.model_copy(update={"samples": POINTS[:100]}),
        "samples: expected samples of Generate, .* found .*, which have no path from noise",
    ),
    "a pilot that selects": (
        lambda: THRESHOLDS.model_copy(update={"samples": select()[:100]}),
        "samples: expected samples of a Generate without selection",
    ),
    "a pilot without steps": (
        lambda: THRESHOLDS.model_copy(update={"samples": ADAPTIVE[:9]}),
        "samples: expected a sampler with steps fixed in advance.*found RK45: use Heun",
    ),
    "a quantile": (lambda: THRESHOLDS.model_copy(update={"quantile": 1.5}), "quantile"),
}


@pytest.mark.parametrize(("build", "says"), REFUSED.values(), ids=REFUSED)
def test_mistakes_say_what_was_expected(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def test_a_discriminator_of_edms_process_is_asked_about_finished_samples():
    """The discriminator is evaluated at its lowest level, since it receives the logarithm of the level."""
    network = dg.Discriminator(process="edm")
    sigma = torch.tensor([0.0, 1e-4, 3.0], dtype=torch.float64)
    assert network.time_map()(sigma).tolist() == [0.002, 1e-4, 3.0]
