"""PlaneArms: the base of steps that compare arms of samples in the plane with a known mixture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from pydantic import model_validator

from dgflow.diffusion.mixture_specs import GaussianMixture
from dgflow.specs.graph import graph
from dgflow.specs.step import ResultStep, Slice
from dgflow.steps.judging.shared_samples import check_seeds_differ, trained_on

SHOWN = 500
"""Samples of each arm that its picture shows."""


class PlaneArms(ResultStep, ABC):
    """Arms of samples in the plane, each one slice per sampling seed, and the mixture that the data are
    from."""

    data: GaussianMixture
    arms: dict[str, tuple[Slice, ...]]

    @model_validator(mode="after")
    def _in_the_plane(self) -> PlaneArms:
        if self.data.dimensions != 2:
            raise ValueError(f"expected data in the plane, found {self.data.dimensions} coordinates")
        if not self.arms or not all(self.arms.values()):
            raise ValueError("expected one or more arms, each of one slice or more, found none")
        for name, arm in self.arms.items():
            self.check_arm(name, arm)
            check_seeds_differ(name, arm)
        return self

    @abstractmethod
    def check_arm(self, name: str, arm: Sequence[Slice]) -> None:
        """Raises ValueError, naming the arm, for samples that the step cannot compare."""

    def cautions(self) -> list[str]:
        steps = [node.step for node in graph(self)]
        return [line for name, arm in self.arms.items() for line in trained_on(name, arm, steps)]
