"""The log-likelihood of images under a score, guided or not: exact by the probability-flow ODE, or as a bound
(NELBO) by the stochastic process.

Both refer to x at noise level sigma_min. The caller passes either a clean image, treated as one at sigma_min
(Song et al. 2021), or an image with noise of that level. An ODE has no predictor and corrector, so only the
first-order weight of a discriminator acts. Heun's method with weights (w1, w2) solves the ODE of weight (w1 +
w2) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dgflow.diffusion.dormand_prince import AT_START, INSIDE, STAGES, check_tolerances, pieces, solve
from dgflow.diffusion.guidance import Guide, Point, boosts_of, edges_of, guide, guided
from dgflow.diffusion.samplers import Denoiser
from dgflow.diffusion.times import per_sample, sigma_from_tau

Field = Callable[[Tensor], Tensor]
"""x [B, ...] -> like x; differentiable if x requires gradients."""

NOT_DIFFERENTIABLE = ("is not implemented", "support double backward")
"""Parts of torch's messages about an operation without a further derivative, and about a compiled network."""


class LogLikelihood(NamedTuple):
    """The result of the ODE for a batch of images.

    Args:
        nats: log-density of x at sigma_min, [B] float64.
        nfe: evaluations that each image needed, int64 [B]; in every piece, the batch takes as many as its
            slowest image.
        latents: the end point of the ODE at sigma_max, in units of the prior's standard deviation, like x.
    """

    nats: Tensor
    nfe: Tensor
    latents: Tensor


@torch.no_grad()
def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    sigma_min: float,
    sigma_max: float,
    class_labels: Tensor | None = None,
    guidance: Sequence[Guide] = (),
    tau_edges: Sequence[float] = (),
    probe: Tensor | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    prior_std: float | None = None,
) -> LogLikelihood:
    """log p(x) of images x [B, ...] at noise level sigma_min, under the probability-flow ODE that starts from
    Gaussian noise at sigma_max (Song et al. 2021, appendix D.2).

    log p(x) = log N(x_T; 0, prior_std^2) + integral of (d - tr J) d log(sigma) along dx / d log(sigma) = x -
    D(x), with J the Jacobian of the guided denoiser D in x. Every image has its own steps, so its result does
    not depend on the rest of the batch. The solver restarts at every edge of a guidance window.

    Args:
        x: images; not clipped or scaled further; float64 internally.
        guidance: terms whose gradients are differentiable in x. Scales that depend on x
            (`match_preceding_norm`, entropy scaling) are differentiated too.
        tau_edges: times at which the denoiser jumps.
        probe: e = +-1 with equal probability, like x, for Hutchinson's unbiased estimate e . (J e) of the
            trace; the same along the whole path. None: the exact trace, with one backward pass per dimension
            of x and evaluation.
        rtol, atol: allowed error of a step: of the state x / sqrt(1 + sigma^2) in root mean square over an
            image, and of the log-density in nats per dimension.
        prior_std: standard deviation of the noise at sigma_max from which samples start. None: sigma_max, as
            in EDM; a variance-preserving sampler (RK45) starts from sqrt(1 + sigma_max^2).

    Errors in bits per dimension on digits of 16 x 16 pixels, and evaluations. For guided scores at 1e-6,
    float32 rounding forces small steps.

    | rtol, atol | unguided | guided |
    |---|---|---|
    | 1e-3 | 0.006, 50 | 0.006, 78 |
    | 1e-4 | 0.002, 62 | 0.001, 78 |
    | 1e-5 | 0.0002, 92 | 0.0002, 126 |
    | 1e-6 | below 0.0002, 128 | below 0.0002, 282 |

    Raises ValueError for impossible levels and tolerances, for terms with a boost (which needs the steps of a
    sampler), and for a denoiser or a term that cannot be differentiated; FloatingPointError if the solution
    cannot continue (mostly for NaN).
    """
    _check(sigma_min, sigma_max, guidance)
    check_tolerances(rtol, atol)
    if atol == 0.0:
        raise ValueError("expected atol > 0, as the change of the log-density begins at 0, found 0")
    if probe is not None and probe.shape != x.shape:
        raise ValueError(f"expected a probe like x, {list(x.shape)}, found {list(probe.shape)}")
    directions = None if probe is None else probe.double()
    flow = _Flow(denoiser, class_labels, guidance, x.shape, x.device, directions)
    mean = 1.0 / math.hypot(1.0, sigma_min)
    y = mean * x.double().flatten(1)
    state = torch.cat([y, y.new_zeros(len(y), 1)], dim=1)
    edges = (sigma_from_tau(edge) for edge in (*tau_edges, *edges_of(guidance)) if edge > 0.0)
    for low, high in pairwise(reversed(pieces(sigma_max, sigma_min, edges))):
        flow.bounds = (low * (1.0 + INSIDE), high * (1.0 - INSIDE))
        flow.nfe += AT_START
        state = solve(
            flow,
            state,
            -math.log(low),
            -math.log(high),
            norm=_norm,
            rtol=rtol,
            atol=atol,
            attempted=flow.attempted,
            time="-log(sigma)",
        )
    std, size = sigma_max if prior_std is None else prior_std, x[0].numel()
    latents = state[:, :-1] * (math.hypot(1.0, sigma_max) / std)
    prior = -0.5 * latents.square().sum(1) - size * math.log(std * math.sqrt(2.0 * math.pi))
    stretch = size * math.log(math.hypot(1.0, sigma_max) / math.hypot(1.0, sigma_min))
    return LogLikelihood(prior + stretch + size * state[:, -1], flow.nfe, latents.reshape(x.shape))


def nelbo(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    sigma_min: float,
    sigma_max: float,
    uniforms: Tensor,
    normals: Sequence[Tensor],
    class_labels: Tensor | None = None,
    guidance: Sequence[Guide] = (),
    prior_std: float | None = None,
) -> Tensor:
    """Estimates [B] in nats, float64, of an upper bound of E_z[-log p(x0 + sigma_min z)], with p the
    distribution that the reverse SDE of the guided score gives from Gaussian noise at sigma_max (Song et al.
    2021, "Maximum Likelihood Training of Score-Based Diffusion Models"; Kim et al. 2023, appendix A.3):

        d / 2 log(2 pi T^2) + (|x0|^2 + d sigma_max^2) / (2 T^2) + log(sigma_max / sigma_min) E[|r|^2 - d]

    with T = prior_std, r = (x0 - D(x0 + sigma z)) / sigma and log sigma uniform, which is importance sampling
    by g^2 / sigma^2. The bound is tight if the guided scores are those of one diffused distribution.
    Otherwise the ODE's density differs from the SDE's, and an image may be less likely under the ODE than
    this bound states.

    Args:
        x0: clean images [B, ...].
        uniforms: on (0, 1), [B, n]. Draw k lies in the k-th of n equal ranges of log sigma: the mean is
            unchanged, and the spread of an estimate from 16 draws falls to a quarter (digits of 16 x 16).
        normals: n tensors like x0.
        class_labels, guidance, prior_std: as in `log_likelihood`; nothing is differentiated twice.

    Raises ValueError as `log_likelihood` does.
    """
    _check(sigma_min, sigma_max, guidance)
    count = len(normals)
    if count == 0 or uniforms.shape != (len(x0), count):
        raise ValueError(
            f"expected n tensors of normals and uniforms [{len(x0)}, n] for n draws, found {count} tensors "
            f"and {list(uniforms.shape)}"
        )
    x0, size, width = x0.double(), x0[0].numel(), math.log(sigma_max / sigma_min) / count
    total = x0.new_zeros(len(x0))
    with torch.no_grad():
        for draw, z in enumerate(normals):
            low, high = (sigma_min * math.exp(width * edge) for edge in (draw, draw + 1))
            sigma = (low * torch.exp(width * uniforms[:, draw].double())).clamp(low, high)
            x = x0 + per_sample(sigma, x0) * z.double()
            residual = (x0 - _denoised(denoiser, x, sigma, class_labels, guidance, (low, high))).flatten(1)
            total += width * (residual.square().sum(1) / sigma.square() - size)
    std = sigma_max if prior_std is None else prior_std
    prior = (x0.flatten(1).square().sum(1) + size * sigma_max**2) / (2.0 * std**2)
    return prior + size * math.log(std * math.sqrt(2.0 * math.pi)) + total


def bits_per_dimension(log_density: Tensor, dimensions: int, *, unit: float = 127.5) -> Tensor:
    """Bits per dimension of images with log-density [B] in nats: -log2 of the density of pixel values, with
    `unit` pixel values per unit of x.

    x = (pixel + u) / 127.5 - 1 with u uniform on [0, 1), or [-1/2, 1/2), has 127.5 and so the constant
    log2(127.5) = 6.994; x = (pixel + u) / 128 - 1 (Song et al. 2021) has 128 and 7. The mean over u bounds
    the bits of the discrete image from above.
    """
    return -log_density / (dimensions * math.log(2.0)) + math.log2(unit)


def flow_slopes(
    field: Field, x: Tensor, probe: Tensor | None, *, mean: Tensor, mean_rate: Tensor, sigma_rate: Tensor
) -> tuple[Tensor, Tensor]:
    """dy/dt and its divergence in y [B] for the probability-flow ODE of any process y = mean(t) (x0 +
    sigma(t) z), float64.

    Args:
        field: the denoiser D at the sigma of x.
        x: y / mean, [B, ...].
        probe: as in `log_likelihood`; from any distribution with unit covariance.
        mean, mean_rate, sigma_rate: mean, d log mean / dt and d log sigma / dt, [B].
    """
    denoised, trace = value_and_trace(field, x, probe)
    square = x.new_full((len(x),), x[0].numel()) if probe is None else probe.square().flatten(1).sum(1)
    slope = per_sample(mean_rate, x) * x + per_sample(sigma_rate, x) * (x - denoised)
    return per_sample(mean, x) * slope, mean_rate * square + sigma_rate * (square - trace)


def value_and_trace(field: Field, x: Tensor, probe: Tensor | None) -> tuple[Tensor, Tensor]:
    """field(x), and the trace [B] of its Jacobian: probe . (J probe), or the exact trace if probe is None.

    Raises ValueError for a field that cannot be differentiated.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = field(x)
        if not value.requires_grad:
            raise ValueError(
                "expected a denoiser that can be differentiated in x, found one whose result does not depend "
                "on x: do not detach the result, and call this function outside inference mode"
            )
        if probe is not None:
            return value.detach(), (_pulled(value, x, probe, keep=False) * probe).flatten(1).sum(1)
        trace, flat = x.new_zeros(len(x)), torch.zeros_like(value).flatten(1)
        for axis in range(flat.shape[1]):
            unit = flat.clone()
            unit[:, axis] = 1.0
            trace = trace + _pulled(value, x, unit.reshape(x.shape), keep=True).flatten(1)[:, axis]
        return value.detach(), trace


def _pulled(value: Tensor, x: Tensor, along: Tensor, *, keep: bool) -> Tensor:
    """The vector-Jacobian product `along` . J."""
    try:
        (result,) = torch.autograd.grad(value, x, along, retain_graph=keep)
    except RuntimeError as error:
        if not any(part in str(error) for part in NOT_DIFFERENTIABLE):
            raise
        raise ValueError(
            "expected, for the divergence, a differentiable denoiser and guidance that can be differentiated "
            f"twice, found an operation without that derivative: {error}"
        ) from error
    return result


class _Flow:
    """Slopes of [y, log-density / dimensions] in time log(1 / sigma), which decreases, with y = x / sqrt(1 +
    sigma^2), and the evaluations that each image needed, `nfe` [B].
    """

    def __init__(
        self,
        denoiser: Denoiser,
        class_labels: Tensor | None,
        guidance: Sequence[Guide],
        shape: torch.Size,
        device: torch.device,
        probe: Tensor | None,
    ) -> None:
        self.denoiser, self.class_labels, self.guidance = denoiser, class_labels, guidance
        self.shape, self.probe = shape, probe
        self.bounds = (0.0, 0.0)
        self.nfe = torch.zeros(shape[0], dtype=torch.int64, device=device)

    def attempted(self, unfinished: Tensor) -> None:
        """Count an attempt of these images [B]."""
        self.nfe += len(STAGES) * unfinished

    def __call__(self, state: Tensor, time: Tensor, attempt: int) -> Tensor:
        sigma = torch.exp(-time).clamp(*self.bounds)
        mean = (1.0 + sigma.square()).rsqrt()
        y = state[:, :-1].reshape(self.shape)
        slope, divergence = flow_slopes(
            lambda x: _denoised(self.denoiser, x, sigma, self.class_labels, self.guidance, self.bounds),
            y / per_sample(mean, y),
            self.probe,
            mean=mean,
            mean_rate=(sigma * mean).square(),
            sigma_rate=torch.full_like(sigma, -1.0),
        )
        return torch.cat([slope.flatten(1), divergence[:, None] / (state.shape[1] - 1)], dim=1)


def _denoised(
    denoiser: Denoiser,
    x: Tensor,
    sigma: Tensor,
    class_labels: Tensor | None,
    guidance: Sequence[Guide],
    bounds: tuple[float, float],
) -> Tensor:
    """The guided denoised image, float64."""
    denoised = denoiser(x, sigma, class_labels).double()
    point = Point(x, sigma, class_labels, 0, 1, bounds, denoised=denoised)
    return guided(guide(guidance, point), sigma)


def _norm(scaled: Tensor) -> Tensor:
    """The larger of the errors of the state and of the log-density."""
    return torch.maximum(scaled[:, :-1].square().mean(1).sqrt(), scaled[:, -1].abs())


def _check(sigma_min: float, sigma_max: float, guidance: Sequence[Guide]) -> None:
    if not 0.0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"expected 0 < sigma_min < sigma_max, found sigma_min={sigma_min}, sigma_max={sigma_max}"
        )
    if any(boost is not None for boost in boosts_of(guidance)):
        raise ValueError(
            "expected guidance without a boost, which needs the steps of a sampler, found one: set boost to "
            "None"
        )
