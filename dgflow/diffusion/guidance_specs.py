"""Specs of guidance, for recipes: settings and the guiding network. Corrections act first, then terms add up,
in the order of the list. `ClassifierFree` is neither: it changes the evaluation of the score network.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from dgflow.diffusion.correction_specs import EpsilonScaling, NetworkGuidance
from dgflow.diffusion.gain_curve import GainChoice, MeasuredGain
from dgflow.diffusion.guidance_settings import (
    ClassifierFree,
    ClassifierSettings,
    Combine,
    DiscriminatorOptions,
    DiscriminatorSettings,
    Scale,
    Switch,
    check_window,
)
from dgflow.specs.spec import LATER
from dgflow.specs.step import Result, Weights

if TYPE_CHECKING:
    from torch import nn

    from dgflow.diffusion.classifier_guidance import ClassifierTerm
    from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
    from dgflow.diffusion.times import TimeMap


FromGain = Literal["gain"]


def _tag(value: Any) -> str:
    return "gain" if isinstance(value, str) and value == "gain" else "number"


def _tag_or_result(value: Any) -> str:
    return "result" if isinstance(value, Result) else _tag(value)


OneOrSeveral = Annotated[
    Annotated[Weights, Tag("one")] | Annotated[tuple[Weights, ...], Tag("several")],
    Discriminator(lambda value: "several" if isinstance(value, tuple | list) else "one"),
]
_Gain = Annotated[FromGain, Tag("gain")]
_Tau = Annotated[float, Field(ge=0, le=1)]
_Result = Annotated[Result, Tag("result")]
ScaleOrGain = Annotated[Annotated[Scale, Tag("number")] | _Gain, Discriminator(_tag)]
ScaleOrGainOf = Annotated[Annotated[Scale, Tag("number")] | _Gain | _Result, Discriminator(_tag_or_result)]
TauOrGain = Annotated[Annotated[_Tau, Tag("number")] | _Gain, Discriminator(_tag)]


class DiscriminatorGuidance(DiscriminatorOptions):
    """Guidance by the gradient of `discriminator`'s log-ratio, with the settings of `DiscriminatorSettings`.

    A tuple of discriminators guides as an ensemble. `combine` gives one log-ratio: "logits", the mean (a
    product of experts), or "probabilities", the log-ratio of the mean probability (Kleger & Sartor, equation
    3). Boost, window and `match_preceding_norm` act on the combined log-ratio. Members must share time input,
    samples and classes; members on the same frozen features share one pass through these.

    Weight and window can be chosen by Gain (theorem 2), measured on held-out real images: `weight="gain"`
    takes the weight with the largest Gain, rounded to 0.01; `tau_min="gain"` and `tau_max="gain"` take the
    ends of the range of noise levels with positive Gain at that weight, with 95 % confidence, one-sided and
    level by level, and the weight is then the best one within it. If Gain is positive up to the highest
    measured level, there is no upper end. Without a positive Gain the weight is 0, and samples are unguided.
    To guide both evaluations of Heun's step by the chosen weight w, set `weight="gain",
    second_order_weight="gain"`. With `second_order_weight=0`, the effect is about that of weight w / 2.

    Gain comes from the epoch of one discriminator trained with `gain_of`. For an ensemble, or a discriminator
    trained elsewhere, give the result of a `Gain` step instead of `weight="gain"`. Both must be measured with
    the score network that is guided. The chosen values are part of the samples' identity, like the bytes of
    the weights.
    """

    role: ClassVar[str] = "discriminator"  # role of the network, and name of its field

    discriminator: OneOrSeveral
    combine: Annotated[Combine, LATER] = "logits"
    weight: ScaleOrGainOf = 1.0
    second_order_weight: ScaleOrGain = 0.0
    tau_min: TauOrGain | None = None
    tau_max: TauOrGain = 1.0

    @model_validator(mode="after")
    def _numbers_or_gain(self) -> Self:
        tau_min = 0.0 if self.tau_min == "gain" else self.tau_min
        check_window(tau_min, 1.0 if self.tau_max == "gain" else self.tau_max, self.after_timestep)
        if self.second_order_weight == "gain" and not self._weight_by_gain:
            raise ValueError(
                f'expected weight="gain" with second_order_weight="gain", found {self.weight}: Gain chooses '
                "one weight for both orders"
            )
        if not self.asks_gain:
            return self
        if isinstance(self.weight, Switch):
            raise ValueError(
                'expected a number or "gain" as weight if Gain chooses the window, found a Switch: give one '
                "weight for all times"
            )
        if self.match_preceding_norm:
            raise ValueError(
                "expected match_preceding_norm=False if Gain chooses weight or window, found True: Gain is "
                "measured for the unscaled gradient"
            )
        return self

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if not self.guides:
            raise ValueError("discriminator: expected one discriminator or more, found an empty tuple")
        if isinstance(self.discriminator, Weights) and self.combine != "logits":
            raise ValueError(
                f"expected several discriminators, (a, b, ...), with combine={self.combine!r}, found one: "
                "omit combine"
            )
        return self

    @property
    def guides(self) -> tuple[Weights, ...]:
        """The networks that guide."""
        return (self.discriminator,) if isinstance(self.discriminator, Weights) else self.discriminator

    @property
    def asks_gain(self) -> bool:
        """True if Gain chooses a weight or an end of the window."""
        return self._weight_by_gain or "gain" in (self.tau_min, self.tau_max)

    @property
    def _weight_by_gain(self) -> bool:
        return self.weight == "gain" or isinstance(self.weight, Result)

    @property
    def window(self) -> tuple[float, float]:
        """See `DiscriminatorSettings.window`; the widest window if Gain is to choose."""
        return self.settings().window

    def chosen(self, measured: MeasuredGain) -> GainChoice:
        """Choose the requested weight and window by Gain."""
        weight = self.weight if isinstance(self.weight, float) else None
        return GainChoice.of(measured, weight, low=self.tau_min == "gain", high=self.tau_max == "gain")

    def settings(self, choice: GainChoice | None = None) -> DiscriminatorSettings:
        """The settings with the values that Gain has chosen; without a choice, weight 1 and the widest
        window.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in DiscriminatorSettings.model_fields}
        if isinstance(self.weight, Result):
            fields["weight"] = "gain"
        choice = GainChoice(weight=1.0) if choice is None else choice
        if not choice.guides:
            fields |= {"weight": 0.0, "second_order_weight": 0.0}
        own: dict[str, float | None] = {"weight": choice.weight, "second_order_weight": choice.weight}
        own |= {"tau_min": None, "tau_max": 1.0}
        if choice.sigma_min is not None:
            own["tau_min"] = _tau(choice.sigma_min)
        if choice.sigma_max is not None and choice.sigma_max < math.inf:
            own["tau_max"] = _tau(choice.sigma_max)
        fields |= {name: value for name, value in own.items() if fields[name] == "gain"}
        return DiscriminatorSettings(**fields)

    def build(self, network: nn.Module, time: TimeMap, choice: GainChoice | None = None) -> DiscriminatorTerm:
        """Build the term of a loaded discriminator with time input `time` and logits [B]; for a tuple, of a
        network with the logits of all members [K, B]. `choice` is Gain's choice, if any.
        """
        from dgflow.diffusion.discriminator_guidance import DiscriminatorTerm
        from dgflow.diffusion.ensembles import EnsembleLogRatio

        settings = self.settings(choice)
        if isinstance(self.discriminator, Weights):
            return DiscriminatorTerm(network, settings, time)
        return DiscriminatorTerm(EnsembleLogRatio(network, self.combine), settings, time)


def _tau(sigma: float) -> float:
    from dgflow.diffusion.times import tau_from_sigma

    return min(1.0, tau_from_sigma(sigma))


class ClassifierGuidance(ClassifierSettings):
    """Guidance by the gradient of `classifier`'s log-probability, with the settings of
    `ClassifierSettings`.
    """

    role: ClassVar[str] = "classifier"

    classifier: Weights

    @property
    def guides(self) -> tuple[Weights, ...]:
        return (self.classifier,)

    def build(self, network: nn.Module, time: TimeMap) -> ClassifierTerm:
        """Build the term of a loaded classifier with time input `time`."""
        from dgflow.diffusion.classifier_guidance import ClassifierTerm

        return ClassifierTerm(network, self, time)


GradientTerm = DiscriminatorGuidance | ClassifierGuidance
GuideTerm = GradientTerm | NetworkGuidance | EpsilonScaling
Guidance = GuideTerm | ClassifierFree
