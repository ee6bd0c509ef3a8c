"""A discriminator that is told of EDM's own process, x = x0 + sigma z, in place of the linear VP one."""

import math
from pathlib import Path

import pytest
import torch
from inprocess import complete
from torch import Tensor, nn

import dgflow as dg
from dgflow.diffusion import mixtures
from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
from dgflow.diffusion.guidance import Point
from dgflow.diffusion.guidance_settings import DiscriminatorSettings
from dgflow.diffusion.times import per_sample, tau_from_sigma
from dgflow.networks.discriminator.module import DiscriminatorModule
from dgflow.networks.roles import HeadSpec
from dgflow.steps.guides import check_guides
from dgflow.store.open import open_store

REAL = dg.GaussianMixture(means=((-1.5, 0.0), (1.5, 0.0)), stds=(0.5, 0.5), weights=(0.5, 0.5))
MODEL = dg.GaussianMixture(means=((-1.2, 0.6), (1.8, -0.9)), stds=(0.6, 0.6), weights=(0.6, 0.4))
POINTS = dg.MixturePoints(mixture=REAL)[:100]
SCORE = dg.ClosedForm(network=dg.MixtureScore(mixture=MODEL)).weights()
FAKES = dg.Generate(score=SCORE, sampler=dg.Heun(steps=4), seed=1)[:100]


class ExactOfEDM(nn.Module):
    """The exact log-ratio of points x at log(sigma) / 4."""

    def forward(self, x: Tensor, c_noise_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        sigma_B = (4 * c_noise_B.double()).exp()
        return mixtures.log_ratio(REAL, MODEL, x.double().flatten(1), sigma_B)[:, None]


class Records(nn.Module):
    """A head that keeps what it was given."""

    def forward(self, x: Tensor, t_B: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.x, self.time_B = x, t_B
        return x.flatten(1)[:, :1]


def training(**fields: object) -> dg.TrainDiscriminator:
    fields = {"network": dg.Perceptron(width=8, layers=1), "batch_size": 10, "epochs": 1} | fields
    return dg.TrainDiscriminator(real=POINTS, fake=FAKES, **fields)  # type: ignore[arg-type]


def test_guidance_by_the_exact_ratio_of_unscaled_points_is_the_exact_correction() -> None:
    module = DiscriminatorModule(None, ExactOfEDM(), process="edm")
    term = DiscriminatorTerm(
        module, DiscriminatorSettings(tau_min=0.0), training(process="edm").architecture.time_map()
    )
    sigma = torch.tensor([0.02, 0.4, 5.0, 79.0], dtype=torch.float64)
    x = torch.tensor([[0.1, -0.4], [1.2, 2.0], [-3.0, 0.3], [60.0, -9.0]], dtype=torch.float64)
    gradient, log_ratio = term(Point(x[:, :, None, None], sigma, None, 0, 1, (0.02, 79.0)))
    exact = mixtures.score(REAL, x, sigma) - mixtures.score(MODEL, x, sigma)
    # The network sees float32; two scores of size 1 / sigma^2 are subtracted.
    assert gradient is not None and log_ratio is not None
    torch.testing.assert_close(gradient[:, :, 0, 0], exact, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(log_ratio, mixtures.log_ratio(REAL, MODEL, x, sigma), rtol=1e-4, atol=1e-6)


def test_a_head_is_given_x_itself_and_edms_noise_condition() -> None:
    y, sigma, head = torch.tensor([[[[1.0]]], [[[-2.0]]]]), torch.tensor([3.0**0.5, math.exp(2.0)]), Records()
    DiscriminatorModule(None, head, process="edm")(y, sigma)
    torch.testing.assert_close(head.x.flatten(), torch.tensor([2.0, -2.0 * math.hypot(1.0, math.exp(2.0))]))
    torch.testing.assert_close(head.time_B, torch.tensor([math.log(3.0) / 8, 0.5]))


def test_a_training_shows_the_same_noise_in_the_scaling_of_each_process(tmp_path: Path) -> None:
    store, shown = open_store(str(tmp_path)), {}
    for process in ("linear-vp", "edm"):
        step = training(process=process)
        head, task = Records(), step.training_task(complete(step, store))
        task.loss(DiscriminatorModule(None, head, process=step.process), torch.arange(10), 0)
        shown[process] = head
    sigma_B = (4 * shown["edm"].time_B.double()).exp()
    torch.testing.assert_close(
        shown["linear-vp"].time_B.double(), tau_from_sigma(sigma_B), rtol=1e-5, atol=0.0
    )
    x = shown["linear-vp"].x * per_sample((1 + sigma_B.square()).sqrt(), shown["linear-vp"].x)
    torch.testing.assert_close(shown["edm"].x.double(), x.double(), rtol=1e-5, atol=0.0)


def test_features_of_linear_vp_cannot_be_told_of_another_process() -> None:
    classifier = dg.TrainClassifier(real=POINTS, network=dg.ADMEncoder(), noise="linear_vp").last()
    for fields in ({}, {"fine_tune": True}):
        with pytest.raises(ValueError, match='linear-VP noise, found "edm": omit the features'):
            training(process="edm", features=classifier, network=dg.ADMEncoder(), **fields)


def test_a_head_with_a_time_of_its_own_is_told_of_linear_vp_alone() -> None:
    head: HeadSpec = dg.Perceptron(time="cosine-vp")
    with pytest.raises(ValueError, match="found cosine-vp: omit time, since the head receives log"):
        dg.Discriminator(head=head, process="edm")


def test_members_of_an_ensemble_are_told_of_one_process() -> None:
    members = (training().last(), training(process="edm").last())
    term = dg.DiscriminatorGuidance(discriminator=members)
    with pytest.raises(ValueError, match="linear-vp, found one that is given EDM's noise level"):
        check_guides(SCORE, (term,))


def test_the_process_is_identity_only_where_it_is_not_linear_vp() -> None:
    assert "process" not in training().document()["fields"]
    assert training(process="edm").fingerprint != training().fingerprint
