"""Translate: images of one domain translated into the domain of a score network, by noise and denoising
(SDEdit)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dgflow.diffusion.guidance_specs import GuideTerm
from dgflow.specs.network import DataShape
from dgflow.specs.spec import Grid
from dgflow.specs.step import Slice
from dgflow.steps.guides import evaluations, evaluations_per_point
from dgflow.steps.pixels import clean_column, clean_images
from dgflow.steps.sampling import Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from dgflow.diffusion.selection.run import Draw
    from dgflow.specs.bound import Bound

Labels = Literal["kept", "dropped"] | Annotated[int, Field(ge=0)]


class Translate(Sampling):
    """Images of `source`, diffused to linear-VP time `start` and sampled from there by the score network of
    another domain (SDEdit, Meng et al. 2022; Kim et al. 2023, section 5.3). Sample i is source image i,
    counted from the beginning of the slice.

    The later the start, the more of the source is lost and the more realistic the result: SDEdit's own range
    is 0.3 to 0.6, noise levels 1.2 to 6.1. Any sampler takes its steps from there to 0: with `grid="tail"`
    those of its own grid that lie below the start, with "whole" as many as in a whole run, on a new grid. A
    discrete schedule (DDPM, DDIM) starts at the nearest of its levels; RK45 chooses its own steps in either
    case.

    `labels` are those of the results, which score network and guides receive if they know classes: "kept",
    the source image's own, for domains with the same classes; a number, that class for all; "dropped", none,
    for networks without classes.

    Latents are translated likewise; for an `Encode`, the means, or the first draws if it has none. Columns,
    `precision` and `compile` are those of `Generate`. Noise depends only on (`seed`, i), and equals that of a
    `Generate` with the same seed.
    """

    maps: ClassVar[str] = "source"

    source: Slice
    start: float = Field(gt=0, le=1)
    grid: Grid = "tail"
    labels: Labels = "kept"

    @model_validator(mode="after")
    def _fits(self) -> Translate:
        source, own = self.source.step, self.score.step.shape
        shape = source.shape
        if source.gives_latents != self.gives_latents:
            kinds = ("images", "latents")
            raise ValueError(
                f"source: expected {kinds[self.gives_latents]}, as the score network samples them, found the "
                f"{kinds[source.gives_latents]} of {source.title}: encode or decode them first, with "
                "Encode(images=..., vae=...) or Decode(latents=..., vae=...)"
            )
        if shape[:2] != own[:2]:
            raise ValueError(
                f"source: expected the score network's {own.channels} channels of {own.image_size} pixels "
                f"per side, found {shape.channels} channels of {shape.image_size}: import the source at that "
                "size"
            )
        self._check_labels(shape.num_classes)
        self.sampler.check_start(self.start)
        if self.selection is not None:
            raise ValueError(
                "selection: expected none in a translation, because its discriminator would compare "
                "samples of different source images, found one; leave it out"
            )
        return self

    def _check_labels(self, source: int) -> None:
        """Raises ValueError if the networks do not accept the labels; `source` is the number of the source's
        classes."""
        classes = self.classes
        if classes == 0 and not isinstance(self.labels, str):
            raise ValueError(
                "labels: expected labels='kept' or 'dropped', as neither score network nor guides know "
                f"classes, found {self.labels}"
            )
        if classes == 0:
            return
        if self.labels == "dropped":
            raise ValueError(
                f"labels: expected labels='kept' or a class from 0 to {classes - 1}, since the networks "
                "need one, found 'dropped': to drop labels, take a score network and guides without "
                "classes (conditional=False)"
            )
        if self.labels == "kept" and source != classes:
            raise ValueError(
                f"labels: expected source images of the {classes} classes of the networks, found {source}: "
                "name the class of the results, as in labels=0, or take networks without classes "
                "(conditional=False)"
            )
        if self.labels == "kept":
            remedy = "name the class of the results, as in labels=0"
            self.source.check_labelled("source", "the score network or a guide", remedy)
        if isinstance(self.labels, int) and self.labels >= classes:
            raise ValueError(f"labels: expected a class from 0 to {classes - 1}, found {self.labels}")

    @property
    def title(self) -> str:
        return (
            f"translate {self.source.step.title} from time {self.start:g}, seed {self.seed}{self.guided_by}"
        )

    @property
    def length(self) -> int:
        return self.source.rows

    @property
    def shape(self) -> DataShape:
        if self.labels == "kept":
            return super().shape._replace(num_classes=self.source.step.shape.num_classes)
        return super().shape if self.classes else super().shape._replace(num_classes=0)

    @property
    def labelled(self) -> bool:
        return self.source.step.labelled if self.labels == "kept" else self.labels != "dropped"

    def network_evaluations(self, rows: int) -> int:
        return rows * self.sampler.nfe_from(self.start, self.grid) * evaluations_per_point(self.guidance)

    def evaluations(self, guides: Sequence[GuideTerm]) -> tuple[float, list[float]]:
        return evaluations(self.score, self.sampler, guides, (self.start, self.grid))

    def check_source(self, inputs: Bound) -> None:
        """Raises ValueError for a start outside the range of the network."""
        self.evaluations([])

    def draws(self, inputs: Bound, start: int, stop: int) -> Callable[[Tensor], Draw]:
        import torch

        from dgflow.diffusion.samplers import Start
        from dgflow.diffusion.selection.run import Draw
        from dgflow.diffusion.times import sigma_from_tau

        rows = inputs.rows("source", ["label", clean_column(self.source.step)], start, stop)
        labels = torch.from_numpy(rows.pop("label")).long()
        if not isinstance(self.labels, str):
            labels = torch.full_like(labels, self.labels)
        elif self.labels == "dropped":
            labels = torch.full_like(labels, -1)
        images = clean_images(rows)
        if self.classes and not ((labels >= 0) & (labels < self.classes)).all():
            raise ValueError(
                f"{self.name}: expected labels 0 to {self.classes - 1} of the source images, found "
                f"{int(labels.min())} to {int(labels.max())}; name the class of the results, as in labels=0"
            )

        def draw(index_B: Tensor) -> Draw:
            own = (index_B - start).cpu()
            latents, added = self.normals(index_B)
            of_class = labels[own].to(index_B.device)
            begin = Start(images[own].to(index_B.device), sigma_from_tau(self.start), self.grid)
            return Draw(latents, of_class, of_class if self.classes else None, added, begin)

        return draw
