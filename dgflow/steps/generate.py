"""Generate: samples of a trained score network, guided or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

import numpy as np

from dgflow.steps.specs import DiscriminatorGuidance, Heun
from dgflow.steps.step import PLACEMENT, SampleStep, Weights

if TYPE_CHECKING:
    import torch

    from dgflow.diffusion.guidance import GuidanceTerm
    from dgflow.networks.edm import EDMPrecond
    from dgflow.steps.binding import Bound
    from dgflow.store.shards import Columns


class Generate(SampleStep):
    """Samples by index: noise and label of sample i depend on (`seed`, i) alone, whatever the shard, worker or cluster.

    Columns: `index`, `label` (class, -1 without one), `image` (uint8 [H, W, C]), and with guidance `log_ratio` (the discriminator's logit
    at the last guided step, float32).
    """

    score: Weights
    sampler: Heun = Heun()
    guidance: tuple[DiscriminatorGuidance, ...] = ()
    seed: int = 0
    batch_size: Annotated[int, PLACEMENT] = 256  # an upper bound: a shard is cut into equal batches

    @property
    def title(self) -> str:
        guides = " and ".join(term.discriminator.step.title.removeprefix("train-") for term in self.guidance)
        return f"generate seed {self.seed}{f', guided by {guides}' if guides else ''}"

    def network_evaluations(self, rows: int) -> int:
        return rows * self.sampler.nfe  # of the score network; the discriminator's come on top

    def shard_builder(self, inputs: Bound) -> Callable[[int, int], Columns]:
        """Load the networks; the function returned makes the samples [start, stop)."""
        import torch

        from dgflow.diffusion.guidance import Boost
        from dgflow.diffusion.guidance import DiscriminatorGuidance as Term
        from dgflow.networks.edm import EDMPrecond

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        denoiser = inputs.network("score").to(device)
        assert isinstance(denoiser, EDMPrecond)
        terms = [
            Term(
                inputs.network(f"guidance.{number}.discriminator").to(device),
                weight=spec.weight,
                second_order_weight=spec.second_order_weight,
                tau_min=spec.tau_min,
                tau_max=spec.tau_max,
                boost=Boost(**spec.boost.model_dump()) if spec.boost else None,
            )
            for number, spec in enumerate(self.guidance)
        ]
        return partial(self._rows, denoiser, terms, device)

    def _rows(self, denoiser: EDMPrecond, terms: Sequence[GuidanceTerm], device: torch.device, start: int, stop: int) -> Columns:
        batches = -(-(stop - start) // self.batch_size)
        edges = [start + (stop - start) * number // batches for number in range(batches + 1)]
        parts = [self._batch(denoiser, terms, device, low, high) for low, high in zip(edges, edges[1:], strict=False)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _batch(self, denoiser: EDMPrecond, terms: Sequence[GuidanceTerm], device: torch.device, start: int, stop: int) -> Columns:
        import torch

        from dgflow.diffusion import noise
        from dgflow.diffusion.samplers import edm_sigmas, heun

        index_B = torch.arange(start, stop, device=device)
        shape = (denoiser.img_channels, denoiser.img_resolution, denoiser.img_resolution)
        class_labels = noise.integers(self.seed, index_B, denoiser.label_dim, draw=noise.LABEL) if denoiser.label_dim else None
        latents = noise.standard_normal(self.seed, index_B, shape, step=0, draw=noise.LATENT)
        sampler = self.sampler
        sample = heun(
            denoiser,
            latents,
            edm_sigmas(sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho),
            class_labels=class_labels,
            guidance=terms,
            churn_noise=lambda step: noise.standard_normal(self.seed, index_B, shape, step=step, draw=noise.CHURN),
            **sampler.keywords(),
        )
        finite_B = sample.x.isfinite().flatten(1).all(dim=1)
        if not finite_B.all():
            bad = int(index_B[~finite_B][0])
            raise FloatingPointError(
                f"expected finite pixels, found NaN or infinity in sample {bad} of {self.name} "
                f"(and {int((~finite_B).sum()) - 1} more of its batch); the score network or the discriminator gives them: "
                "look at its training curves, take an earlier epoch or a smaller guidance weight"
            )
        pixels = (sample.x * 127.5 + 128).clip(0, 255).to(torch.uint8)  # truncation, as EDM writes its images
        columns = {
            "index": index_B.cpu().numpy(),
            "label": (torch.full_like(index_B, -1) if class_labels is None else class_labels).cpu().numpy(),
            "image": pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy(),
        }
        if sample.log_ratio is not None:
            columns["log_ratio"] = sample.log_ratio.float().cpu().numpy()
        return columns
