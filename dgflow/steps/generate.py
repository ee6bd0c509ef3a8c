"""Generate: samples of a score network, with or without guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dgflow.specs.spec import Seeding
from dgflow.steps.sampling import Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from dgflow.diffusion.samplers import Noise
    from dgflow.diffusion.selection.run import Draw
    from dgflow.specs.bound import Bound


class Generate(Sampling):
    """Samples by index: noise and label of sample i depend only on (`seed`, i), whatever the shard, worker or
    cluster.

    Columns: `index`, `label` (class, -1 without one), `image` (uint8 [H, W, C]) or, for a network of latents,
    `latent` (float16 [C, H, W], from the sampler), and with a discriminator `log_ratio` (the discriminator's
    logit at the last guided step, float32).

    Labels are drawn from the score network's classes, or from the guides' if only they have classes.

    `seeding="edm"` draws what EDM's per-sample generators draw for the seeds `seed`, `seed` + 1, ...: 50,000
    samples each of the seeds 0, 50,000 and 100,000 are the three published sets. `precision` and `compile`
    are as in `Sampling`: "tf32" applies only to CUDA's matrix products, the others to the networks' weights
    and activations; `compile` makes one graph of the score network and its guidance.
    """

    seeding: Seeding = "counter"

    @property
    def title(self) -> str:
        return f"generate seed {self.seed}{self.guided_by}"

    @property
    def seeds(self) -> tuple[int, Seeding]:
        return self.seed, self.seeding

    def draws(self, inputs: Bound, start: int, stop: int) -> Callable[[Tensor], Draw]:
        return self._edm_draw if self.seeding == "edm" else self._draw

    def _draw(self, index_B: Tensor) -> Draw:
        from dgflow.diffusion import noise

        labels = noise.integers(self.seed, index_B, self.classes, draw=noise.LABEL) if self.classes else None
        latents, added = self.normals(index_B)
        return _labelled(latents, labels, added, index_B)

    def _edm_draw(self, index_B: Tensor) -> Draw:
        from dgflow.diffusion.edm_seeding import edm_draws

        latents, labels, added = edm_draws((index_B + self.seed).tolist(), self.sides, self.classes)
        device = index_B.device
        labels = None if labels is None else labels.to(device)
        return _labelled(latents.to(device), labels, lambda step: added(step).to(device), index_B)


def _labelled(latents: Tensor, labels: Tensor | None, added: Noise, index_B: Tensor) -> Draw:
    """Returns the samples with the labels that the networks receive, -1 for none."""
    import torch

    from dgflow.diffusion.selection.run import Draw

    return Draw(latents, torch.full_like(index_B, -1) if labels is None else labels, labels, added)
