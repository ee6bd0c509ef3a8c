"""What recipes say about guidance: plain frozen values, turned into terms by `build` where torch is.

A recipe lists any of them in any order; gradients add up. `ClassifierFree` is no gradient but another way to
ask the score network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from dgflow.specs.spec import Spec
from dgflow.specs.step import Weights

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion import guidance
    from dgflow.diffusion.classifier_guidance import ClassifierGuidance as ClassifierTerm
    from dgflow.diffusion.discriminator_guidance import DiscriminatorGuidance as DiscriminatorTerm
    from dgflow.diffusion.score_model import ScoreModel
    from dgflow.diffusion.times import TimeMap


class Switch(Spec):
    """A number that changes once on the way down: `above` at DDPM timesteps greater than `timestep` (of
    0..999, linear schedule), else `below`."""

    above: float
    below: float
    timestep: int = Field(ge=0, lt=999)

    def in_tau(self) -> guidance.Switch:
        """For terms, which compare linear-VP time."""
        from dgflow.diffusion.discrete import DiscreteSchedule
        from dgflow.diffusion.guidance import Switch as Number

        return Number(self.above, self.below, DiscreteSchedule.of("linear").tau_after(self.timestep))

    def in_timesteps(self) -> guidance.Switch:
        """For noise predictors, which compare their own timestep."""
        from dgflow.diffusion.guidance import Switch as Number

        return Number(self.above, self.below, self.timestep)


Scale = float | Switch


def _in_tau(scale: Scale) -> float | guidance.Switch:
    return scale.in_tau() if isinstance(scale, Switch) else scale


class Boost(Spec):
    """The published adaptive boost: on every `period`-th step, samples that look fake get `weight` times the
    guidance and, on every `churn_period`-th step, `S_churn` (algorithm of EDM-G++, Kim et al. 2023). Samplers
    that do not churn ignore the latter."""

    period: int = Field(default=2, ge=1)
    weight: Scale = 2.0
    churn_period: int = Field(default=5, ge=1)
    S_churn: float = Field(default=4.0, ge=0)
    S_noise: float = Field(default=1.0, ge=0)

    def build(self) -> guidance.Boost:
        """The rule, for a term."""
        from dgflow.diffusion.guidance import Boost as Rule

        return Rule(self.period, _in_tau(self.weight), self.churn_period, self.S_churn, self.S_noise)


class DiscriminatorGuidance(Spec):
    """Adds the gradient of the discriminator's log-ratio to the score while `tau_min` <= tau <= `tau_max`
    (linear-VP time).

    `weight` acts in the predictor of Heun's step, `second_order_weight` in its corrector. With an exact ratio
    (1, 1) is right; (2, 0), the published choice for CIFAR-10, has about the same effect.
    `match_preceding_norm` scales the gradient to the norm of the sum of those listed before it, per sample,
    ahead of the weight (ADM-G++'s "Scaling"). `after_timestep`, in place of `tau_min` (None is 0.01): at DDPM
    timesteps (of 0..999, linear schedule) greater than this one. `saturate`: compatibility with the published
    sigmoid and clip, which give no gradient to the samples that look most fake.
    """

    discriminator: Weights
    weight: Scale = 1.0
    second_order_weight: Scale = 0.0
    tau_min: float | None = Field(default=None, ge=0, le=1)
    tau_max: float = Field(default=1.0, ge=0, le=1)
    after_timestep: int | None = Field(default=None, ge=0, lt=996)  # from 996 on there is no linear-VP time
    boost: Boost | None = None
    match_preceding_norm: bool = False
    saturate: bool = False

    @model_validator(mode="after")
    def _one_window(self) -> DiscriminatorGuidance:
        if self.tau_min is not None and self.after_timestep is not None:
            raise ValueError(
                f"expected tau_min or after_timestep, found both: {self.tau_min} and {self.after_timestep}"
            )
        if self.tau_min is not None and self.tau_min > self.tau_max:
            raise ValueError(f"expected tau_min <= tau_max, found {self.tau_min} and {self.tau_max}")
        return self

    def build(self, network: nn.Module, time: TimeMap) -> DiscriminatorTerm:
        """The term of a loaded discriminator that is told `time`."""
        from dgflow.diffusion.discrete import DiscreteSchedule
        from dgflow.diffusion.discriminator_guidance import DiscriminatorGuidance as Term

        after, default = self.after_timestep, 0.01 if self.tau_min is None else self.tau_min
        return Term(
            network,
            weight=_in_tau(self.weight),
            second_order_weight=_in_tau(self.second_order_weight),
            tau_min=default if after is None else DiscreteSchedule.of("linear").tau_after(after),
            tau_max=self.tau_max,
            time=time,
            boost=self.boost.build() if self.boost else None,
            match_preceding_norm=self.match_preceding_norm,
            saturate=self.saturate,
        )


class ClassifierGuidance(Spec):
    """Adds the gradient of a noisy classifier's log-probability of the sample's class (Dhariwal & Nichol
    2021).

    `entropy_scaling` divides the weight by the normalised entropy of the classifier's answer (EDS of ED-DPM,
    Li et al. 2022), which counts as at least `entropy_floor` nats; 0 is the published form, infinite for a
    classifier that is sure.
    """

    classifier: Weights
    weight: Scale = 1.0
    tau_min: float = Field(default=0.0, ge=0, le=1)
    tau_max: float = Field(default=1.0, ge=0, le=1)
    entropy_scaling: bool = False
    entropy_floor: float = Field(default=1e-4, ge=0)

    def build(self, network: nn.Module, time: TimeMap) -> ClassifierTerm:
        """The term of a loaded classifier that is told `time`."""
        from dgflow.diffusion.classifier_guidance import ClassifierGuidance as Term

        return Term(
            network,
            weight=_in_tau(self.weight),
            tau_min=self.tau_min,
            tau_max=self.tau_max,
            time=time,
            entropy_scaling=self.entropy_scaling,
            entropy_floor=self.entropy_floor,
        )


class ClassifierFree(Spec):
    """Classifier-free guidance (Ho & Salimans 2022) on the first `channels` channels; 3, on four-channel
    latents, is what DiT publishes."""

    scale: Scale = 1.5
    channels: int | None = Field(default=3, gt=0)

    def apply(self, model: ScoreModel) -> ScoreModel:
        """The model under guidance."""
        return model.classifier_free(
            self.scale.in_timesteps() if isinstance(self.scale, Switch) else self.scale, self.channels
        )


Guidance = DiscriminatorGuidance | ClassifierGuidance | ClassifierFree
