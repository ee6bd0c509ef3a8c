"""Sample interactively from a score network of a root, guided or not, without a recipe and without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dgflow.client.samples import Samples

if TYPE_CHECKING:
    from dgflow.client.networks import ScoreNetwork
    from dgflow.diffusion.guidance_specs import Guidance
    from dgflow.diffusion.sampler_specs import SamplerSpec


def sample(
    score: ScoreNetwork,
    guidance: Guidance | Sequence[Guidance] = (),
    n: int = 16,
    sampler: SamplerSpec | None = None,
    seed: int = 0,
    *,
    start: int = 0,
    **settings: Any,
) -> Samples:
    """Draw samples `start` to `start + n` of a seed in this process, without storing them. They are the
    samples of a `Generate` step with these settings: noise and labels depend only on seed and index.

    With the same batch size on the same kind of machine, the samples equal those of a run bit for bit.
    Another batch size can change the rounding of the network.

    Args:
        score: result of `open(root).score()`.
        guidance: `discriminator.guidance(weight=2.0)`, any other guidance with networks of the same root, or
            a sequence of guidance.
        n: number of samples.
        sampler: the sampler; by default Heun with 18 steps.
        settings: further settings of `Generate`, such as `selection` or `precision`.

    Raises:
        ValueError: settings are incompatible, or networks belong to another root.
    """
    from dgflow.diffusion.edm_sampler_specs import Heun
    from dgflow.steps.generate import Generate

    if n < 1:
        raise ValueError(f"expected at least one sample, found n={n}")
    terms = tuple(guidance) if isinstance(guidance, Sequence) else (guidance,)
    chosen = Heun() if sampler is None else sampler
    step = Generate(score=score.weights, guidance=terms, sampler=chosen, seed=seed, **settings)
    make = step.shard_builder(score.records.bind(step))
    return Samples(dict(make(start, start + n)))
