"""diffusers' pipelines with discriminator guidance. Their loops and schedulers are diffusers' own; only the
scheduler's steps are guided."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Self

import torch
from diffusers.pipelines.ddim.pipeline_ddim import DDIMPipeline
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.pipelines.dit.pipeline_dit import DiTPipeline
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from dgflow.diffusers.steps import guided_steps
from dgflow.diffusion.guidance import GuidanceTerm


class _GuidedPipeline(DiffusionPipeline):
    """Base of the guided pipelines. A guided pipeline has the components of diffusers' pipeline (`plain`). It
    is loaded with `from_pretrained` from the same files, or with `from_pipe` from a plain pipeline, and it is
    saved as a plain pipeline. Guidance is an argument of each call and is not stored.
    """

    plain: ClassVar[type[DiffusionPipeline]]

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **components: Any) -> Self:
        """Return the guided version of a pipeline, which shares the unchanged networks. `components` replace
        those of `pipeline`.
        """
        # diffusers' from_pipe would cast all networks, in place, to one dtype.
        guided: Any = cls(**{**pipeline.components, **components})
        if hasattr(pipeline, "labels"):  # DiTPipeline's labels are not stored in a file
            guided.labels = pipeline.labels
        return guided

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Save as diffusers' plain pipeline, which loads without dgflow; guidance is not saved."""
        self.plain(**self.components).save_pretrained(save_directory, *args, **kwargs)

    def _guided(
        self, guidance: Sequence[GuidanceTerm], class_labels: Tensor | None = None
    ) -> AbstractContextManager[None]:
        scheduler: Any = self.scheduler
        if float(scheduler.init_noise_sigma) != 1.0:
            raise ValueError(
                f"expected a scheduler whose state begins as unit noise, such as DDIM or DPM-Solver, found "
                f"{type(scheduler).__name__}: {self.plain.__name__} never scales its first noise, with or "
                "without guidance. Use another scheduler, or guided_steps in your own loop"
            )
        return guided_steps(scheduler, guidance, class_labels)


class DiscriminatorGuidedDDPMPipeline(_GuidedPipeline, DDPMPipeline):
    """`DDPMPipeline` with the additional argument `guidance`."""

    plain = DDPMPipeline

    def __call__(self, *args: Any, guidance: Sequence[GuidanceTerm] = (), **kwargs: Any) -> Any:
        """Call the pipeline as `DDPMPipeline`; `guidance` and its errors are as in `guided_steps`."""
        with self._guided(guidance):
            return super().__call__(*args, **kwargs)


class DiscriminatorGuidedDDIMPipeline(_GuidedPipeline, DDIMPipeline):
    """`DDIMPipeline` with the additional argument `guidance`."""

    plain = DDIMPipeline

    def __call__(self, *args: Any, guidance: Sequence[GuidanceTerm] = (), **kwargs: Any) -> Any:
        """Call the pipeline as `DDIMPipeline`; `guidance` and its errors are as in `guided_steps`."""
        with self._guided(guidance):
            return super().__call__(*args, **kwargs)


class DiscriminatorGuidedDiTPipeline(_GuidedPipeline, DiTPipeline):
    """`DiTPipeline` with the additional argument `guidance`, whose networks receive latents and class labels.
    Gradients are added once per sample, after classifier-free guidance (Kim et al. 2023, DiT-G++).
    """

    plain = DiTPipeline

    def __call__(
        self, class_labels: list[int], *args: Any, guidance: Sequence[GuidanceTerm] = (), **kwargs: Any
    ) -> Any:
        """Call the pipeline as `DiTPipeline`; `guidance` and its errors are as in `guided_steps`."""
        labels = torch.tensor(class_labels, device=self._execution_device).reshape(-1)
        with self._guided(guidance, labels):
            return super().__call__(class_labels, *args, **kwargs)
