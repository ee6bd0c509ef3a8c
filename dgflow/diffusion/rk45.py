"""The guided probability-flow ODE in linear-VP time, by Dormand and Prince's adaptive 5(4) method.

dy/dtau = -beta / 2 * (y + score_y) of Song et al. 2021 (equation 13). Published results of LSGM and Soft
Truncation share one step size over a batch; here every sample has its own, and the shared step size is a
compatibility mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from dgflow.diffusion.dormand_prince import INSIDE, check_tolerances, pieces, solve
from dgflow.diffusion.evaluation import OfDenoiser, Place, evaluate
from dgflow.diffusion.guidance import (
    OUTSIDE_LOG_RATIO,
    Guide,
    LogRatios,
    boosts_of,
    edges_of,
    first_of,
    guided,
    latest,
)
from dgflow.diffusion.samplers import Denoiser, Sample, noised
from dgflow.diffusion.times import (
    LINEAR_VP,
    LinearVP,
    beta,
    mean_std,
    per_sample,
    sigma_from_tau,
    tau_from_sigma,
)


@torch.no_grad()
def rk45(
    denoiser: Denoiser,
    latents: Tensor,
    *,
    tau_max: float = 1.0,
    tau_min: float = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    images: Tensor | None = None,
    class_labels: Tensor | None = None,
    guidance: Sequence[Guide] = (),
    tau_edges: Sequence[float] = (),
    shared_step: bool = False,
    vp: LinearVP = LINEAR_VP,
    denoise_last: bool = False,
    denoise_tau: float | None = None,
) -> Sample:
    """Solve from `tau_max` to `tau_min`; score_y = sqrt(1 + sigma^2) * ((denoised - x) / sigma^2 + sum of
    gradients).

    All unfinished samples attempt a step together, each from its own time and with its own step size;
    finished samples idle. The host waits for the device only between attempts. The solver restarts at every
    time in the terms' `tau_edges`, where the slope jumps, and evaluates no term beyond an edge. An attempt
    takes six evaluations, or seven if a term has a boost.

    Args:
        latents: unit normals [B, ...], the state y at tau_max.
        images: clean images [B, ...], diffused to tau_max with the latents as noise; None to start from
            noise.
        tau_max, tau_min: start and end, in the time of `vp`. Soft Truncation ends at 1e-5, LSGM at 1e-5 or
            1e-6.
        rtol, atol: allowed error of a step, relative to |y| and absolute. A step is accepted if the root mean
            square over a sample, in units of the allowed error, is below 1.
        class_labels: passed to denoiser and guidance.
        guidance: see `guidance.GuidanceTerm`. `Point.step` counts the attempts in the piece, and `order` is
            1. The paper leaves a boost undefined for this solver: here it acts in attempts whose number is a
                multiple of its period; its churn never acts.
        tau_edges: times at which the denoiser jumps (a classifier-free scale that switches).
        shared_step: compatibility mode: one step size for the batch, from the error over all samples, as
            published; a sample's result then depends on the rest of its batch.
        vp: the diffusion of the network's training. All edges remain times of `LINEAR_VP`.
        denoise_last: end with the guided denoised image at tau_min.
        denoise_tau: the time of that last denoising, if not tau_min. Soft Truncation uses the lower end of
            its training, independent of the end of the ODE.

    Returns the state at tau_min as `x`; `nfe` counts evaluations of the batch: in every piece, as many as the
    slowest sample needed; `evaluations` counts those of each sample until it was finished.

    Raises ValueError for impossible times and tolerances, FloatingPointError if a solution cannot continue
    (mostly for NaN).
    """
    if not 0.0 < tau_min < tau_max <= 1.0:
        raise ValueError(f"expected 0 < tau_min < tau_max <= 1, found tau_min={tau_min}, tau_max={tau_max}")
    if denoise_tau is not None and not 0.0 < denoise_tau <= 1.0:
        raise ValueError(f"expected 0 < denoise_tau <= 1, found {denoise_tau}")
    check_tolerances(rtol, atol)
    flow = _Flow(denoiser, len(latents), class_labels, guidance, vp)
    # With a boost, the last slope of an attempt differs from the first of the next.
    reuse = all(boost is None for boost in boosts_of(guidance))
    last: LogRatios = [None] * len(guidance)
    y = latents.double()
    if images is not None:
        mean, std = mean_std(tau_max, vp)
        y = noised(latents, std, mean * images)

    def norm(value: Tensor) -> Tensor:
        square = value.square().flatten(1).mean(1)
        return (square.mean().expand_as(square) if shared_step else square).sqrt()

    def record(moved: Tensor) -> None:
        new = [
            None if ratio is None else torch.where(moved, ratio, OUTSIDE_LOG_RATIO)
            for ratio in flow.log_ratios
        ]
        last[:] = latest(last, new)

    edges = (
        tau_from_sigma(sigma_from_tau(edge), vp) for edge in {*tau_edges, *edges_of(guidance)} if edge > 0.0
    )
    for start, end in pairwise(pieces(tau_max, tau_min, edges)):
        flow.enter(start, end)
        y = solve(
            flow,
            y,
            start,
            end,
            norm=norm,
            rtol=rtol,
            atol=atol,
            reuse=reuse,
            moved=record,
            attempted=flow.count,
        )
    if denoise_last:
        if denoise_tau is not None and denoise_tau != tau_min:
            sigma = sigma_from_tau(denoise_tau, vp)
            flow.bounds = (sigma, sigma)
        tau = y.new_full((len(y),), tau_min if denoise_tau is None else denoise_tau)
        y, *_ = flow.denoised(y, tau, 0)
        flow.count(torch.ones_like(tau, dtype=torch.bool))
    nfe, *guides = flow.of_batch
    return Sample(y, nfe, sum(guides), first_of(last), tuple(guides), flow.of_samples)


class _Flow:
    """The slope dy/dtau inside one piece at a time, and the log-ratios of the last evaluation.

    Counts of evaluations [1 + entries of guidance] are `of_batch` for the batch, and `of_samples` [B, ...]
    for the evaluations in which each sample took part.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        samples: int,
        class_labels: Tensor | None,
        guidance: Sequence[Guide],
        vp: LinearVP,
    ) -> None:
        self.network, self.class_labels, self.guidance, self.vp = (
            OfDenoiser(denoiser),
            class_labels,
            guidance,
            vp,
        )
        self.bounds = (0.0, 0.0)
        self.log_ratios: LogRatios = []
        self.of_batch = [0] * (1 + len(guidance))
        self._counted = list(self.of_batch)  # the evaluations already in `of_samples`
        self.of_samples: Tensor = torch.zeros(samples, len(self.of_batch), dtype=torch.int64)

    def count(self, unfinished: Tensor) -> None:
        """Add the evaluations since the last call to the samples [B] that were unfinished."""
        new = [count - before for count, before in zip(self.of_batch, self._counted, strict=True)]
        self._counted = list(self.of_batch)
        new_E = torch.tensor(new, device=unfinished.device)
        self.of_samples = self.of_samples.to(unfinished.device) + unfinished[:, None] * new_E

    def enter(self, start: float, end: float) -> None:
        self.bounds = (
            sigma_from_tau(end, self.vp) * (1.0 + INSIDE),
            sigma_from_tau(start, self.vp) * (1.0 - INSIDE),
        )

    def denoised(self, y: Tensor, tau: Tensor, attempt: int) -> tuple[Tensor, Tensor, Tensor]:
        """(guided denoised image, x, sigma [B])."""
        sigma = sigma_from_tau(tau, self.vp).clamp(*self.bounds)
        x = y * per_sample((1.0 + sigma.square()).sqrt(), y)
        place = Place(sigma, self.class_labels, attempt, 1, self.bounds)
        advice, _ = evaluate(self.network, (x,), self.guidance, place)
        asked = (True, *advice.asked)
        self.of_batch = [count + one for count, one in zip(self.of_batch, asked, strict=True)]
        self.log_ratios = advice.log_ratios
        return guided(advice, sigma), x, sigma

    def __call__(self, y: Tensor, tau: Tensor, attempt: int) -> Tensor:
        denoised, x, sigma = self.denoised(y, tau, attempt)
        score = per_sample((1.0 + sigma.square()).sqrt() / sigma.square(), y) * (denoised - x)
        return -0.5 * per_sample(beta(tau, self.vp), y) * (y + score)
