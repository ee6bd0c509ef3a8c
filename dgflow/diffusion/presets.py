"""Guidance settings of Kim et al. 2023 (Discriminator Guidance) as plain numbers, with the FID that was
published for each.

Data alone: nothing here imports torch, so that recipes can be planned with it; whoever runs them builds the
    terms. A pair is (at timesteps
greater than the switch, at the switch and below), timesteps being those of the linear schedule of 1000 steps,
    0 the cleanest.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

Pair = tuple[float, float]


@dataclass(frozen=True)
class EDMGuidance:
    """EDM-G++ (Heun's sampler): discriminator guidance by order, and whether the adaptive boost
    (`guidance.Boost`) is on.

    Window: tau >= tau_min. `cosine_time`: the classifier under the discriminator, of 64 pixels, is told
        cosine time. `baseline_fid` is that
    of EDM without guidance, `num_steps` those of the guided run.
    """

    weight: float
    second_order_weight: float
    boost: bool
    num_steps: int
    published_fid: float
    baseline_fid: float
    cosine_time: bool = False
    tau_min: float = 0.01


@dataclass(frozen=True)
class ADMGuidance:
    """ADM-G++ (ImageNet 256, DDPM of 250 steps): classifier guidance first, then the discriminator's, both
    switching at one timestep.

    discriminator_weight: for samples of log-ratio >= 0, and for all in odd steps counted from 0.
    discriminator_weight_fake: for samples of log-ratio < 0 in even steps counted from 0 (the paper's odd
        ones, counted from 1).
    classifier_weight: before the entropy scale (`classifier_guidance.entropy_scale`), which `entropy_scaling`
        turns on.
    match_preceding_norm: the discriminator's gradient is first scaled to the norm of the classifier's term.
    discriminator_after: the discriminator acts at timesteps greater than this.
    """

    classifier_weight: Pair
    discriminator_weight: Pair
    discriminator_weight_fake: Pair
    switch_timestep: int
    published_fid: float
    entropy_scaling: bool = True
    match_preceding_norm: bool = True
    discriminator_after: int = 100
    num_steps: int = 250

    @property
    def boost(self) -> Pair:
        """The factor that makes `discriminator_weight` the weight of fake-looking samples:
        `guidance.Boost.weight`."""
        (above, below), (fake_above, fake_below) = self.discriminator_weight, self.discriminator_weight_fake
        return fake_above / above, fake_below / below


@dataclass(frozen=True)
class DiTGuidance:
    """DiT-G++ (ImageNet 256, DDPM of 250 steps): classifier-free guidance on the first `channels` channels,
    and the discriminator's."""

    classifier_free_scale: Pair
    switch_timestep: int
    discriminator_weight: float
    discriminator_after: int
    published_fid: float
    baseline_fid: float
    channels: int = 3
    num_steps: int = 250


EDM_GPP = MappingProxyType(
    {
        "cifar10-uncond": EDMGuidance(2.0, 0.0, False, num_steps=18, published_fid=1.77, baseline_fid=2.03),
        "cifar10-cond": EDMGuidance(1.0, 0.0, True, num_steps=18, published_fid=1.64, baseline_fid=1.82),
        "cifar10-cond-plain": EDMGuidance(
            1.0, 0.0, False, num_steps=18, published_fid=1.66, baseline_fid=1.82
        ),
        "ffhq-64": EDMGuidance(
            1.0, 0.0, True, num_steps=36, published_fid=1.98, baseline_fid=2.39, cosine_time=True
        ),
        "ffhq-64-plain": EDMGuidance(
            1.0, 0.0, False, num_steps=36, published_fid=2.04, baseline_fid=2.39, cosine_time=True
        ),
    }
)
"""Table 2 of the paper; `-plain` is the same without the boost."""

ADM_GPP = MappingProxyType(
    {
        "3.18": ADMGuidance((0.75, 1.5), (1.0, 1.0), (1.0, 0.75), switch_timestep=650, published_fid=3.18),
        "3.73": ADMGuidance((0.25, 1.5), (1.0, 1.0), (3.0, 0.75), switch_timestep=650, published_fid=3.73),
        "4.66": ADMGuidance((0.25, 1.5), (1.0, 1.0), (3.0, 0.75), switch_timestep=600, published_fid=4.66),
        "4.45": ADMGuidance((0.1, 2.0), (1.0, 1.0), (5.0, 0.5), switch_timestep=600, published_fid=4.45),
    }
)
"""By published FID. No code was released: on which side of the switch a number belongs follows from how FID,
IS and recall move; entropy scaling and norm matching are stated for 3.18, and assumed for the other rows."""

DIT_GPP = DiTGuidance(
    (1.25, 3.0),
    switch_timestep=200,
    discriminator_weight=1.0,
    discriminator_after=100,
    published_fid=1.83,
    baseline_fid=2.27,
)
"""DiT-XL/2-G++; the baseline is DiT-XL/2 with classifier-free guidance of scale 1.5."""
