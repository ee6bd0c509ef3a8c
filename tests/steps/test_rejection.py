"""Rejection in recipes: what is made, recorded, planned and refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from inprocess import complete

import dgflow as dg
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore

REAL = dg.GaussianMixture(means=((-1.0, 0.5), (1.0, 0.0)), stds=(0.3, 0.3), weights=(0.25, 0.75))
MODEL = dg.GaussianMixture(means=((-1.1, 0.4), (0.9, 0.1)), stds=(0.35, 0.35), weights=(0.6, 0.4))
SCORES = dg.ClosedForm(network=dg.MixtureScore(mixture=MODEL)).weights()
RATIO = dg.ClosedForm(network=dg.MixtureRatio(real=REAL, model=MODEL)).weights()
OTHER = dg.ClosedForm(network=dg.MixtureScore(mixture=REAL)).weights()
HEUN = dg.Heun(steps=8, S_churn=4.0, S_max=50.0)


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
    """But for the rounding of other batches, as any sample."""
    whole = rows(rejecting(), store, 0, 64)
    narrow, part = rows(rejecting(batch=3), store, 0, 64), rows(rejecting(), store, 16, 48)
    for other, indices in ((narrow, slice(0, 64)), (part, slice(16, 48))):
        for name in ("index", "label", "score_evaluations", "discriminator_evaluations"):
            np.testing.assert_array_equal(other[name], whole[name][indices])
        np.testing.assert_allclose(other["latent"], whole["latent"][indices], atol=1e-3)
        np.testing.assert_allclose(other["log_ratio"], whole["log_ratio"][indices], atol=1e-5)


def test_the_log_ratio_of_a_sample_is_that_at_its_end(store):
    for selection in ({}, {"max_backsteps": 4}, {"at": "end"}):
        found = rows(rejecting(**selection), store, 0, 32)
        x = found["latent"][:, :, 0, 0].astype(float)

        def density(mixture: dg.GaussianMixture, x: np.ndarray = x) -> np.ndarray:
            square = ((x[:, None] - np.array(mixture.means)) ** 2).sum(2)
            variance = np.array(mixture.stds) ** 2
            return (np.array(mixture.weights) / variance * np.exp(-square / (2 * variance))).sum(1)

        expected = np.log(density(REAL)) - np.log(density(MODEL))
        np.testing.assert_allclose(found["log_ratio"], expected, atol=0.02)  # latents are float16
