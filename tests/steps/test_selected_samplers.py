"""Rejection moves samples back along the path of every sampler that has one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from inprocess import complete

import dgflow as dg
from dgflow.store.memory import MemoryStore

REAL = dg.GaussianMixture(means=((-1.0, 0.5), (1.0, 0.0)), stds=(0.3, 0.3), weights=(0.25, 0.75))
MODEL = dg.GaussianMixture(means=((-1.1, 0.4), (0.9, 0.1)), stds=(0.35, 0.35), weights=(0.6, 0.4))
SCORES = dg.ClosedForm(network=dg.MixtureScore(mixture=MODEL)).weights()
RATIO = dg.ClosedForm(network=dg.MixtureRatio(real=REAL, model=MODEL)).weights()
INTERVAL = dg.RestartInterval(points=3, repeats=2, sigma_min=0.5, sigma_max=2.0)
CHURN: dict[str, Any] = {"S_churn": 3.0, "S_max": 50.0}


@pytest.mark.parametrize(
    "sampler",
    [
        dg.Restart(steps=6, restarts=(INTERVAL,), restart_gamma=0.05, **CHURN),
        dg.EDMAblation(steps=6, discretization="vp", schedule="vp", scaling="vp", **CHURN),
        dg.DDPM(respacing="8"),
        dg.DDIM(respacing="8", eta=0.5),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samples_do_not_depend_on_who_else_is_sent_back(sampler: Any) -> None:
    def generate(selection: Any = None) -> dg.Generate:
        return dg.Generate(score=SCORES, sampler=sampler, selection=selection, seed=3, shard_size=16)

    def rows(step: Any, start: int, stop: int) -> dict[str, np.ndarray]:
        return step.shard_builder(complete(step, MemoryStore("selected")))(start, stop)

    pilot = dg.RejectionThresholds(samples=generate()[:32], discriminator=RATIO, quantile=0.3)
    step = generate(dg.Rejection(discriminator=RATIO, thresholds=pilot.result()))
    whole, part = rows(step, 0, 12), rows(step, 3, 7)
    assert (whole["score_evaluations"] > sampler.nfe).any()
    assert (whole["score_evaluations"] >= sampler.nfe).all()
    for name, values in part.items():
        np.testing.assert_allclose(values, whole[name][3:7], atol=1e-3)
