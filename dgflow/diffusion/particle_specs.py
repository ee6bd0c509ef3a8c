"""Selections among several particles per sample, as recipes name them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import AfterValidator

from dgflow.diffusion.guidance_specs import Guidance
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.diffusion.selection_specs import SelectionSpec
from dgflow.specs.step import Weights

if TYPE_CHECKING:
    from dgflow.diffusion.selection.run import Run, Selected
    from dgflow.specs.bound import Bound


def _several(count: int) -> int:
    if not 2 <= count <= 1024:
        raise ValueError(
            f"expected 2 to 1,024 particles per sample, found {count}"
            + ": one is the plain sampler, without a selection" * (count == 1)
        )
    return count


Several = Annotated[int, AfterValidator(_several)]
"""A number of particles per sample."""


class BestOf(SelectionSpec):
    """Of `count` samples, the one to which `discriminator` gives the largest log-ratio is kept.

    Any sampler and guidance draws them; all have the sample's class. The first is the sample that is made
    without a selection. The discriminator is asked at noise level 0, so that one of clean images
    (`TrainDiscriminator(noise="none")`) fits best.

    Samples are drawn towards the largest ratio, beyond the data's law: precision rises with `count`, and
    recall falls.
    """

    count: Several = 4

    def select(self, run: Run, start: int, stop: int, inputs: Bound) -> Selected:
        from dgflow.diffusion.selection.best_of import best_of

        del inputs
        return best_of(run, start, stop, self.count)

    def evaluations(self, nfe: float) -> tuple[float, float]:
        return self.count * nfe, self.count

    def check(self, where: str, sampler: SamplerSpec, score: Weights, guidance: tuple[Guidance, ...]) -> None:
        del score, guidance
        if sampler.block is not None:
            raise ValueError(
                f"{where}: expected a sampler that chooses the steps of every sample by itself, found "
                f"shared_block={sampler.block}: leave shared_block out"
            )

    @property
    def title(self) -> str:
        return f"best of {self.count}"

    def toy(self) -> Self:
        return self.model_copy(update={"count": 2})
