"""The three losses of a discriminator against mixtures with known log-ratio: their minima, their slopes under
saturation, and the results of training."""

import math

import pytest
import torch
from torch import Tensor

from dgflow.diffusion.losses import AS_PUBLISHED, discriminator_loss
from dgflow.diffusion.times import log_uniform_sigma, tau_from_sigma
from dgflow.networks.perceptron.module import PerceptronModule

KINDS = ("bce", "lsif", "ukl")
HUGE = (5.0, 10.0, 88.0, 100.0, 1e3, 1e20, torch.finfo(torch.float32).max)


def slopes(logit: Tensor, kind) -> tuple[Tensor, Tensor]:
    """Returns the slopes of the loss of real and of fake samples at these logits, each in a separate
    graph."""
    both = []
    for is_real in (True, False):
        loss = discriminator_loss(logit, torch.full(logit.shape, is_real), kind)
        both.append(torch.autograd.grad(loss.sum(), logit, create_graph=True)[0])
    return both[0], both[1]


def log_density(x: Tensor, means: Tensor, std: float) -> Tensor:
    """Returns the log-density of the even mixture in one dimension."""
    parts = -0.5 * ((x[:, None] - means) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
    return parts.logsumexp(1) - math.log(len(means))


@pytest.mark.parametrize("kind", KINDS)
def test_the_expected_slope_is_zero_at_the_true_log_ratio_and_rises_through_it(kind):
    """The log-ratio of the mixtures runs from -32 to 32, far beyond the saturation of the losses: at every x,
    and as a derivative of the whole expectation in any direction."""
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    real, fake = (log_density(x, torch.tensor(means), 0.5) for means in ([-3.0, 1.5], [-1.0, 4.0]))
    logit = real - fake
    assert float(logit.min()) < -32 and float(logit.max()) >= 32
    logit.requires_grad_()
    on_real, on_fake = slopes(logit, kind)
    expected, size = on_real * real.exp() + on_fake * fake.exp(), on_fake * fake.exp()
    # torch's softplus equals its asymptote above 20, with an error of exp(-20) at most.
    assert float((expected / size).detach().abs().max()) < (2.1e-9 if kind == "bce" else 1e-12)
    (curvature,) = torch.autograd.grad(expected.sum(), logit)
    assert (curvature > 0).all()
    for direction in (torch.ones_like(x), torch.sin(3 * x), (x > 1).double()):
        first, second = expected.detach() * direction, curvature * direction**2
        assert abs(float(torch.trapezoid(first, x))) < 1e-10
        assert float(torch.trapezoid(second, x)) > 1e-3


@pytest.mark.parametrize("kind", ("lsif", "ukl"))
def test_losses_go_on_from_where_they_are_as_published(kind):
    """Values are the integral of the slopes, so they are continuous at the edges, and within the edges they
    equal the formulas."""
    logit = torch.linspace(-15, 15, 60_001, dtype=torch.float64).requires_grad_()
    for is_real, slope in zip((True, False), slopes(logit, kind), strict=True):
        loss = discriminator_loss(logit, torch.full(logit.shape, is_real), kind)
        integral = loss[0] + torch.cumulative_trapezoid(slope, logit)
        assert torch.allclose(integral, loss[1:], rtol=1e-6, atol=1e-6)
    within = logit.abs() <= AS_PUBLISHED[kind]
    ratio = logit[within].exp()
    formulas = {"lsif": (-ratio, ratio**2 / 2), "ukl": (-logit[within], ratio)}[kind]
    for is_real, formula in zip((True, False), formulas, strict=True):
        loss = discriminator_loss(logit[within], torch.full(formula.shape, is_real), kind)
        assert torch.allclose(loss, formula, rtol=1e-14)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_no_logit_overflows_and_none_on_the_wrong_side_is_left_alone(kind, dtype):
    size = torch.tensor(HUGE).clamp(max=torch.finfo(dtype).max).to(dtype)
    logit = torch.cat([size, -size]).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        for is_real in (True, False):
            loss = discriminator_loss(logit, torch.full(logit.shape, is_real), kind)
            (slope,) = torch.autograd.grad(loss.mean(), logit)
            assert loss.isfinite().all() and slope.isfinite().all()
            assert (slope <= 0).all() if is_real else (slope >= 0).all()
            wrong = slope[len(size) :] if is_real else slope[: len(size)]
            assert (wrong.abs() > 1e-4 / len(logit)).all()  # exp(-5) of LSIF is the smallest
            assert (slope.abs() < 1.01 * math.exp(10)).all()


def test_cross_entropy_is_that_of_torch():
    logit = torch.linspace(-30, 30, 101)
    is_real = torch.arange(101) % 2 == 0
    expected = torch.where(is_real, torch.nn.functional.softplus(-logit), torch.nn.functional.softplus(logit))
    assert discriminator_loss(logit, is_real).equal(expected)


class Plane:
    """Two mixtures of two Gaussians in the plane, with noise: samples, and the exact log-ratio."""

    std = 0.7
    means = {True: torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), False: torch.tensor([[-1.0, 0.5], [0.5, 0.0]])}

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def batch(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns noisy points [size, 2], noise levels and kinds, alternating real and fake."""
        is_real = torch.arange(size) % 2 == 0
        part = torch.randint(2, (size,), generator=self.generator)
        mean = torch.where(is_real[:, None], self.means[True][part], self.means[False][part])
        sigma = log_uniform_sigma(torch.rand(size, generator=self.generator), 0.1, 2.0)
        noise = torch.randn(size, 2, generator=self.generator)
        return mean + (self.std**2 + sigma**2).sqrt()[:, None] * noise, sigma, is_real

    def log_ratio(self, x: Tensor, sigma: Tensor) -> Tensor:
        variance = self.std**2 + sigma**2
        real, fake = (
            (-((x[:, None] - self.means[kind]) ** 2).sum(2) / (2 * variance[:, None])).logsumexp(1)
            for kind in (True, False)
        )
        return real - fake


def asked(network: PerceptronModule, x: Tensor, sigma: Tensor) -> Tensor:
    y = x / (1 + sigma**2).sqrt()[:, None]
    return network(y[..., None, None], tau_from_sigma(sigma))[:, 0]


def trained(kind, steps: int = 200, batch: int = 512, bad: int | None = None) -> PerceptronModule:
    """Returns a small perceptron after some steps of Adam, of which `bad` are on points far outside."""
    torch.manual_seed(0)
    network = PerceptronModule(image_size=1, in_channels=2, width=16, layers=2)
    plane, optimizer = Plane(0), torch.optim.Adam(network.parameters())
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        x, sigma, is_real = plane.batch(batch)
        if step == bad:
            x = 1e15 * x
        loss = discriminator_loss(asked(network, x, sigma), is_real, kind).mean()
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_training_by_each_loss_finds_the_log_ratio(kind):
    """The tolerance is the error of an estimate from so many points. The ratio of counts in a cell of n
    points, r to 1, has a log whose variance is (1 + r)^2 / r / n = (2 + r + 1 / r) / n, whatever the Bregman
    loss; a fit of k parameters has k cells at most. The last step of Adam is given twice that."""
    steps, batch = 200, 512
    network, plane = trained(kind, steps, batch), Plane(99)
    x, sigma, _ = plane.batch(20_000)
    with torch.no_grad():
        error = asked(network, x, sigma) - plane.log_ratio(x, sigma)
    ratio = plane.log_ratio(x, sigma).exp()
    layers = (network.first, network.scale_shift.bias, *network.hidden, network.last)
    parameters = sum(
        part.numel()
        for layer in layers
        for part in ((layer,) if isinstance(layer, Tensor) else layer.parameters())
    )
    bound = 2 * parameters * float((2 + ratio + 1 / ratio).mean()) / (steps * batch)
    assert bound < 0.15 * float(plane.log_ratio(x, sigma).var())
    assert float(error.square().mean()) < bound


@pytest.mark.parametrize("kind", KINDS)
def test_training_through_a_bad_batch_stays_finite(kind):
    """Logits are some 1e15, whose exp and square overflow."""
    network, before = trained(kind, steps=12, batch=64, bad=6), trained(kind, steps=6, batch=64)
    x, sigma, is_real = Plane(1).batch(64)
    with torch.no_grad():
        worst = asked(before, 1e15 * x, sigma).abs().max()
        loss = discriminator_loss(asked(network, x, sigma), is_real, kind)
    assert worst > 1e12 and loss.isfinite().all()
    assert all(value.isfinite().all() for value in network.state_dict().values())
