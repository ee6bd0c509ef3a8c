"""The intervals in which a sampler restarts, and their levels. Does not load torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from dgflow.specs.spec import Spec


class RestartInterval(Spec):
    """A restart interval: at the level nearest to `sigma_min`, add noise up to `sigma_max` and solve the ODE
    back down, `repeats` times.

    points: number of noise levels of one descent, including both ends; each of the points - 1 steps is
    second-order.
    """

    points: int = Field(ge=2)
    repeats: int = Field(default=1, ge=1)
    sigma_min: float = Field(gt=0)
    sigma_max: float = Field(gt=0)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"expected sigma_min < sigma_max, found {self.sigma_min} and {self.sigma_max}")
        return self

    @property
    def nfe(self) -> int:
        """Evaluations of the score network per sample."""
        return 2 * self.repeats * (self.points - 1)

    def place(self, levels: Sequence[float]) -> int:
        """The position of the level at which the interval restarts."""
        return min(range(len(levels)), key=lambda place: abs(levels[place] - self.sigma_min))


def placed(levels: Sequence[float], restarts: Sequence[RestartInterval]) -> dict[int, RestartInterval]:
    """The restarts by position of their level. As published, there is no restart at the first level, and the
    last of several restarts at one level is used.

    Raises ValueError for a restart whose level is 0 or not below its `sigma_max`.
    """
    places = {restart.place(levels): restart for restart in restarts}
    places.pop(0, None)
    for place, restart in places.items():
        if not 0.0 < levels[place] < restart.sigma_max:
            raise ValueError(
                f"expected restarts whose nearest noise level is above 0 and below their sigma_max, found "
                f"{levels[place]:.4g} for sigma_min {restart.sigma_min:g} and sigma_max "
                f"{restart.sigma_max:g}: use more steps, or another interval"
            )
    return places
