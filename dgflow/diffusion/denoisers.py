"""Convert between denoisers and noise predictors, so that every network works with every sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dgflow.diffusion.discrete import DiscreteSchedule, table
from dgflow.diffusion.samplers import Denoiser, Predictor
from dgflow.diffusion.times import TimeMap, per_sample

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(y [B, C, ...] float32, time [B], class labels) -> output [B, C or 2 C, ...]."""


@dataclass(frozen=True)
class VPDenoiser:
    """A `Denoiser` from a predictor: D(x, sigma) = x - sigma * epsilon(x / sqrt(1 + sigma^2), time(sigma)).

    Computes in float64 around the predictor, which receives float32.

    Args:
        predictor: the noise predictor; its v is not used.
        time: the predictor's time for a noise level, such as `schedule.timesteps_from_sigma()`.
    """

    predictor: Predictor
    time: TimeMap

    def __call__(self, x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The denoised x [B, ...] at noise levels sigma [B], float64."""
        x, sigma = x.double(), sigma.double()
        y = per_sample((1.0 + sigma.square()).rsqrt(), x) * x
        epsilon, _ = self.predictor(y.float(), self.time(sigma).float(), class_labels)
        return x - per_sample(sigma, x) * epsilon.double()


def learned_range(network: Network) -> Predictor:
    """A predictor from a network with 2 C output channels, epsilon first, then v: ADM and DiT with learned
    variance.

    Raises ValueError when called, for a network with another number of channels.
    """

    def predict(y: Tensor, time: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        output = network(y, time, class_labels)
        if output.shape[1] != 2 * y.shape[1]:
            found = f"{output.shape[1]} for an input of {y.shape[1]}"
            raise ValueError(
                f"expected twice the input's channels (epsilon and v), found {found}: use epsilon_only for a "
                "network without v"
            )
        epsilon, v = output.chunk(2, dim=1)
        return epsilon, v

    return predict


def epsilon_only(network: Network) -> Predictor:
    """A predictor from a network without learned variance.

    Raises ValueError when called, if the output's shape differs from the input's.
    """

    def predict(y: Tensor, time: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        output = network(y, time, class_labels)
        if output.shape != y.shape:
            found = f"{list(output.shape)} for {list(y.shape)}"
            raise ValueError(
                f"expected an output like y in shape, found {found}: use learned_range for a network with v"
            )
        return output, None

    return predict


def predictor_of(denoiser: Denoiser, schedule: DiscreteSchedule) -> Predictor:
    """A predictor without v from an EDM denoiser, at the schedule's noise levels: epsilon = (x - D(x, sigma))
    / sigma.

    The predictor's time is the timestep of the original diffusion, as in `ddpm` and `ddim`. Predictors of the
    same denoiser and schedule compare equal.
    """
    return _PredictorOf(denoiser, schedule)


@dataclass(frozen=True)
class _PredictorOf:
    denoiser: Denoiser
    schedule: DiscreteSchedule

    def __call__(
        self, y: Tensor, time: Tensor, class_labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        sigma = table(self.schedule.original_sigmas, y.device)[time.round().long()]
        sigma_y = per_sample(sigma, y)
        x = y.double() * (1.0 + sigma_y.square()).sqrt()
        return (x - self.denoiser(x, sigma, class_labels).double()) / sigma_y, None
