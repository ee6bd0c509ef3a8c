"""The bug behind the reproduction study's FID of 14.35, as in `benchmarks/study_bug.py`: its gradient in
closed form, and its effect on samples of a known density with an exact discriminator."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusion import test_exact_guidance
from diffusion.mixtures import MODEL, REAL, exact_log_ratio
from diffusion.test_exact_guidance import SAMPLERS
from steps.identities import DISC, SCORE
from torch import Tensor

import dgflow as dg
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm, log_ratio_and_gradient
from dgflow.diffusion.ensembles import EnsembleLogRatio
from dgflow.diffusion.guidance_settings import DiscriminatorSettings
from dgflow.diffusion.times import tau_from_sigma
from dgflow.specs.graph import graph
from dgflow.steps.guides import loaded_term

MEMBERS = (DISC.last(), DISC.best())


@pytest.fixture(scope="module")
def study() -> ModuleType:
    """Loads `benchmarks/study_bug.py`."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "study_bug.py"
    spec = importlib.util.spec_from_file_location("study_bug", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bug(study: ModuleType, network: Any, *members: Any, **settings: Any) -> DiscriminatorTerm:
    return study.WithoutSigmoid(discriminator=members or MEMBERS[0], **settings).build(
        network, tau_from_sigma
    )


@pytest.mark.parametrize(
    ("output", "slope"),
    [
        (-7.0, 0.0),
        (-0.01, 0.0),
        (0.001, 1001.001),
        (0.1, 1 / 0.09),
        (0.5, 4.0),
        (0.9, 1 / 0.09),
        (1.01, 0.0),
        (8.0, 0.0),
    ],
)
def test_its_gradient_is_none_outside_0_to_1_and_at_least_fourfold_inside(study, output, slope):
    """For a raw output z = y: d/dz log(z / (1 - z)) = 1 / (z (1 - z)), and 0 where the clip acts."""
    term = bug(study, lambda y, time, labels: y[:, 0])
    sigma = torch.ones(1, dtype=torch.float64)
    x = torch.tensor([[output, 0.0]], dtype=torch.float64) * 2**0.5  # y = x / sqrt(1 + sigma^2)
    log_ratio, gradient = log_ratio_and_gradient(term.discriminator, x, sigma, None)
    assert float(gradient[0, 0]) * 2**0.5 == pytest.approx(slope, rel=1e-3)
    assert bool(log_ratio < 0) == (output < 0.5)  # "looks fake", and therefore boosted


def test_it_averages_the_members_raw_outputs(study):
    def members(y: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        return torch.stack([y[:, 0], 0.2 + 0 * y[:, 0]])

    term = bug(study, members, *MEMBERS)
    x = torch.tensor([[0.6, 0.0]], dtype=torch.float64) * 2**0.5
    log_ratio, gradient = log_ratio_and_gradient(
        term.discriminator, x, torch.ones(1, dtype=torch.float64), None
    )
    assert float(log_ratio) == pytest.approx(torch.logit(torch.tensor(0.4)).item(), rel=1e-5)
    assert float(gradient[0, 0]) * 2**0.5 == pytest.approx(0.5 / (0.4 * 0.6), rel=1e-5)


def frechet(x: Tensor) -> float:
    """Returns the Fréchet distance of the samples' moments from those of REAL, in closed form for two
    dimensions: tr sqrt(A B) = sqrt(tr(A B) + 2 sqrt(det(A B)))."""
    weights, means = torch.tensor(REAL.weights).double(), torch.tensor(REAL.means).double()
    mean = weights @ means
    real = (means - mean).T @ (weights[:, None] * (means - mean)) + REAL.std**2 * torch.eye(2).double()
    product = real @ x.T.cov()
    root = (product.trace() + 2 * product.det().clamp_min(0).sqrt()).sqrt()
    return float((x.mean(0) - mean).square().sum() + real.trace() + x.T.cov().trace() - 2 * root)


def test_with_an_exact_discriminator_the_bug_makes_samples_worse_than_no_guidance(study, monkeypatch):
    """The ensemble consists of two exact ratios, so that the bug is the only error."""
    monkeypatch.setattr(test_exact_guidance, "LATENTS", test_exact_guidance.LATENTS[:600])

    def members(y: Tensor, tau: Tensor, labels: Tensor | None) -> Tensor:
        return exact_log_ratio(y, tau).expand(2, -1)

    def distance(*terms: DiscriminatorTerm) -> float:
        return frechet(SAMPLERS["heun"](MODEL.denoiser, terms))

    right = DiscriminatorSettings(weight=1.0, second_order_weight=1.0)
    unguided = distance()
    guided = distance(DiscriminatorTerm(EnsembleLogRatio(members, "probabilities"), right))
    assert guided < 0.02 < 0.3 < unguided
    for weights in ((1.0, 1.0), (2.0, 0.0)):
        settings = {"weight": weights[0], "second_order_weight": weights[1]}
        assert distance(bug(study, members, *MEMBERS, **settings)) > 3 * unguided


def test_the_recipe_adds_arms_to_those_of_digits(study):
    """Unguided and guided samples, judge and reference are the steps of `digits.py`, all of which are
    reused."""
    target, ours = study.digits(), study.workflow()
    known = {node.step.fingerprint for node in graph(target)}
    new = {node.step.kind for node in graph(ours) if node.step.fingerprint not in known}
    assert new == {"generate", "features", "measure", "evaluate"}
    assert list(ours.arms) == ["unguided", "guided", "without the sigmoid", "without the sigmoid, boosted"]
    ensemble = study.workflow(members=3).arms["without the sigmoid"][0].step
    assert len(ensemble.guidance[0].discriminator) == 3


def test_the_term_of_the_bug_is_another_step_than_the_right_one(study):
    """A subclass from outside the package has its own identity, and can be sent to workers."""
    right = dg.Generate(score=SCORE.last(), guidance=(dg.DiscriminatorGuidance(discriminator=DISC.last()),))
    wrong = right.model_copy(update={"guidance": (study.WithoutSigmoid(discriminator=DISC.last()),)})
    assert type(wrong.guidance[0]) is study.WithoutSigmoid
    assert right.fingerprint != wrong.fingerprint


def test_a_subclass_from_outside_the_package_is_built_where_samples_are_made(study):
    term = study.WithoutSigmoid(discriminator=DISC.last())
    built = loaded_term("guidance.0.discriminator", term, lambda name: torch.nn.Identity())
    assert isinstance(built, DiscriminatorTerm) and built.settings == term.settings()
