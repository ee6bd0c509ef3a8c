"""The networks that guide a sampler: compatibility with a score network, and evaluation counts.

A guide (a second score network is one too) sees the score network's samples and labels. Therefore shapes have
to be equal, and a guide with classes has to know all of them. The members of an ensemble are evaluated
together, so they also have to be compatible with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dgflow.diffusion.correction_specs import EpsilonScaling, NetworkGuidance
from dgflow.diffusion.gain_curve import GainChoice
from dgflow.diffusion.guidance_specs import (
    ClassifierFree,
    DiscriminatorGuidance,
    GradientTerm,
    Guidance,
    GuideTerm,
)
from dgflow.diffusion.sampler_specs import SamplerSpec
from dgflow.networks.families import names, of_latents, score_network
from dgflow.networks.roles import ClassifierSpec, DiscriminatorSpec, GuideSpec, ScoreNetworkSpec
from dgflow.specs.network import DataShape, NetworkSpec
from dgflow.specs.spec import Grid, references
from dgflow.specs.step import NetworkStep, Use, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dgflow.diffusion.guidance import GuidanceTerm, Guide
    from dgflow.diffusion.score_model import ScoreModel

ROLES: Mapping[str, tuple[type[NetworkSpec], str]] = {
    "classifier": (ClassifierSpec, "TrainClassifier"),
    "discriminator": (DiscriminatorSpec, "TrainDiscriminator"),
    "network": (ScoreNetworkSpec, "TrainScore"),
}
"""For each role of a guide: the class of its network's spec, and the step that trains it."""


def check_guides(score: Weights, guidance: Sequence[Guidance]) -> None:
    """Raises ValueError, naming the field, for networks that do not fit each other."""
    score_network(score)
    shape, classes = score.step.shape, score.step.classes
    if sum(isinstance(term, ClassifierFree) for term in guidance) > 1:
        raise ValueError("guidance: expected at most one ClassifierFree")
    before = 0
    for number, term in enumerate(guidance):
        where = f"guidance.{number}"
        if isinstance(term, ClassifierFree):
            _check_null_class(where, score, "classifier-free guidance needs")
            continue
        if isinstance(term, EpsilonScaling):
            continue
        members = members_of(f"{where}.{term.role}", term)
        for name, weights in members.items():
            check_guide(name if len(members) > 1 else where, name, weights, term.role, shape, classes)
            check_knows_noise(name, weights)
        if isinstance(term, NetworkGuidance):
            _check_second(where, score, term)
            continue
        check_ensemble(members)
        if isinstance(term, DiscriminatorGuidance) and term.match_preceding_norm and before == 0:
            raise ValueError(
                f"{where}: match_preceding_norm has no term before it whose norm could be matched: list "
                "the classifier first"
            )
        before += 1


def _check_second(where: str, score: Weights, term: NetworkGuidance) -> None:
    """Raises ValueError for a second score network of different samples, or one that equals the first."""
    other = term.network
    if of_latents(other) != of_latents(score):
        kinds = [("latents" if of_latents(weights) else "images") for weights in (score, other)]
        raise ValueError(
            f"{where}: expected a second network of {kinds[0]}, as the score network's samples are, found "
            f"one of {kinds[1]}"
        )
    if term.without_class:
        _check_null_class(where, other, "without_class needs")
    elif other.identity == score.identity:
        raise ValueError(
            f"{where}: expected another network than the score network, found the same weights "
            f"({other.title}, {other.which}), which change nothing: take a smaller or less trained one, an "
            "earlier epoch, or without_class=True of a network with a null class"
        )


def _check_null_class(where: str, weights: Weights, needs: str) -> None:
    if not score_network(weights).has_null_class:
        known = names(ScoreNetworkSpec, having=lambda family: family.has_null_class)
        raise ValueError(f"{where}: {needs} a network with a null class ({known}), found {_kind(weights)}")


def guides_of(path: str, guidance: Sequence[Guidance]) -> dict[str, GuideTerm]:
    """Returns the terms and corrections, by the path of the field that names their networks; `path` is that
    of the list."""
    return {
        f"{path}.{number}.{term.role}": term
        for number, term in enumerate(guidance)
        if not isinstance(term, ClassifierFree)
    }


def evaluations_per_point(guidance: Sequence[Guidance]) -> int:
    """Returns the evaluations of the score network per point: two if it is also evaluated without a class."""
    return 1 + any(isinstance(term, ClassifierFree) for term in guidance)


def received_classes(score: Weights, guidance: Sequence[Guidance]) -> int:
    """Returns the number of classes that the networks receive, 0 for none: the score network's, or the
    guides' if only they have classes."""
    if score.step.classes:
        return score.step.classes
    terms = guides_of("guidance", guidance).values()
    known = (weights.step.classes for term in terms for weights in term.guides)
    return min(filter(None, known), default=0)


def members_of(path: str, term: GuideTerm) -> dict[str, Weights]:
    """Returns the networks of a term by the paths of their fields. `path` is that of the term's own field;
    each member of an ensemble adds a name."""
    return dict(references(path, getattr(term, term.role)))


def check_guide(where: str, field: str, weights: Weights, role: str, shape: DataShape, classes: int) -> None:
    """Raises ValueError if a network cannot guide samples of that shape and those classes."""
    step, (kind, training) = weights.step, ROLES[role]
    if not isinstance(step.architecture, kind):
        raise ValueError(
            f"{field}: expected a {training} or a Pretrained {names(kind)}, found {_kind(weights)}"
        )
    if step.shape[:2] != shape[:2]:
        raise ValueError(
            f"{where}: expected a network for the score network's samples, {shape.channels} channels of "
            f"{shape.image_size} pixels per side, found one for {step.shape.channels} of "
            f"{step.shape.image_size}"
        )
    if 0 < step.classes < classes:
        raise ValueError(
            f"{where}: expected a network that knows the {classes} classes of the score network, found "
            f"{step.classes} classes"
        )


def check_knows_noise(field: str, weights: Weights) -> None:
    """Raises ValueError for a guide of clean samples if it would be evaluated along noise levels."""
    step = weights.step
    if not step.knows_noise:
        use = ", or use this one for best of n, rejection or MeanLogRatio, which evaluate finished samples"
        raise ValueError(
            f"{field}: expected a network of noisy samples, which is evaluated at every noise level, "
            f'found {weights.title}, a network of clean samples only: train it with noise="linear_vp"'
            f"{use if isinstance(step.architecture, DiscriminatorSpec) else ''}"
        )


def check_ensemble(members: Mapping[str, Weights]) -> None:
    """Raises ValueError for duplicate members, or members that cannot be evaluated together."""
    first, *_ = members
    known: dict[tuple[str, int | str], str] = {}
    for name, weights in members.items():
        if (before := known.setdefault(weights.identity, name)) != name:
            raise ValueError(
                f"{name}: expected members that differ, found the weights of {before} again "
                f"({weights.title}, {weights.which}); leave one out"
            )
        times = [_architecture(each).time_name for each in (members[first], weights)]
        if times[0] != times[1]:
            raise ValueError(
                f"{name}: expected a discriminator that is given the time of {first}, {times[0]}, found one "
                f"that is given {times[1]}"
            )
        knows = [each.step.knows_noise for each in (members[first], weights)]
        if knows[0] != knows[1]:
            kinds = {True: "noisy", False: "clean"}
            raise ValueError(
                f"{name}: expected a discriminator of {kinds[knows[0]]} samples, as {first} is one, found "
                f"one of {kinds[knows[1]]} samples ({weights.title}); leave one of them out"
            )
        counts = [each.step.classes for each in (members[first], weights)]
        if counts[0] != counts[1]:
            raise ValueError(
                f"{name}: expected a discriminator of the {counts[0]} classes of {first} (0: without "
                f"classes), found one of {counts[1]}"
            )


def _architecture(weights: Weights) -> GuideSpec:
    network = weights.step.architecture
    assert isinstance(network, GuideSpec)
    return network


def loaded_term(
    path: str, term: GradientTerm, load: Callable[[str], nn.Module], choice: GainChoice | None = None
) -> GuidanceTerm:
    """Returns the term with loaded networks. `load` returns the network of a field, `path` is the path of the
    term's own field, and `choice` is Gain's choice if the term uses it."""
    members = members_of(path, term)
    networks = [load(name) for name in members]
    time = _architecture(next(iter(members.values()))).time_map()
    network = networks[0]
    if path not in members:
        from dgflow.networks.discriminator.ensemble import EnsembleModule

        network = EnsembleModule(networks)
    if isinstance(term, DiscriminatorGuidance) and choice is not None:
        return term.build(network, time, choice)
    return term.build(network, time)


def guide_uses(term: GuideTerm) -> list[tuple[NetworkStep, Use]]:
    """Returns the networks that an evaluation of a term runs, and how. Members on the same frozen features
    run only their heads, except the first; a second score network runs without gradient."""
    if isinstance(term, NetworkGuidance):
        return [(term.network.step, "forward")]
    uses: list[tuple[NetworkStep, Use]] = []
    computed = set[tuple[str, str]]()
    for weights in term.guides:
        spec = weights.step.architecture
        features = spec.frozen_features if isinstance(spec, DiscriminatorSpec) else None
        key = None if features is None else (features.fingerprint, features.which)
        uses.append((weights.step, "head-gradient" if key in computed else "gradient"))
        if key is not None:
            computed.add(key)
    return uses


def guides_title(term: Guidance) -> str:
    """Returns a readable name of a term's networks."""
    if isinstance(term, ClassifierFree):
        return "its null class"
    if isinstance(term, EpsilonScaling):
        return "a scaled prediction of the noise"
    if isinstance(term, NetworkGuidance):
        return f"{term.network.step.title.removeprefix('train-')} ({term.network.which})"
    first, *others = term.guides
    return f"{len(term.guides)} {term.role}s" if others else first.step.title.removeprefix("train-")


def _kind(weights: Weights) -> str:
    return f"{weights.step.kind} of {type(weights.step.network).__name__}"


def guide_evaluations(score: Weights, sampler: SamplerSpec, terms: Sequence[GuideTerm]) -> list[float]:
    """Returns the evaluations of every term per sample over a whole run."""
    return evaluations(score, sampler, terms)[1]


def evaluations(
    score: Weights, sampler: SamplerSpec, terms: Sequence[GuideTerm], begin: tuple[float, Grid] | None = None
) -> tuple[float, list[float]]:
    """Returns the evaluations per sample of the score network, and of every term: inside its window, at a
    weight other than 0.

    Counted by running the sampler and the terms over one pixel, with networks that do nothing. Estimated if
    the sampler chooses its steps from the networks' output.

    Args:
        begin: linear-VP time and grid of a run that begins within the sampler's range, None for a whole one.

    Raises ValueError if the run begins outside the range of sampler or network.
    """
    import torch

    from dgflow.diffusion.samplers import Start
    from dgflow.diffusion.times import sigma_from_tau

    tau = 1.0 if begin is None else begin[0]
    own = sampler.evaluations_within(0.0, tau)
    if own is not None:
        windows = (term.window for term in terms)
        return own, [sampler.evaluations_within(low, min(high, tau)) or 0.0 for low, high in windows]
    counts = [0] * len(terms)

    def counted(number: int) -> None:
        counts[number] += 1

    built = [_without_networks(term, partial(counted, number)) for number, term in enumerate(terms)]
    point = torch.ones(1, 1, 1, 1)
    labels = torch.zeros(1, dtype=torch.int64)
    options: dict[str, Any] = {}
    if begin is not None:
        options["start"] = Start(torch.zeros_like(point), sigma_from_tau(begin[0]), begin[1])
    model = without_network(score)
    sample = sampler.sample(model, point, labels, built, lambda _: torch.zeros_like(point), **options)
    return float(sample.nfe), [float(count) for count in counts]


def _without_networks(term: GuideTerm, asked: Callable[[], None]) -> Guide:
    """Returns the term with networks that do nothing and record where they are evaluated."""
    import torch

    if isinstance(term, EpsilonScaling):
        return term.build()
    if isinstance(term, NetworkGuidance):

        def second(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
            asked()
            return torch.zeros_like(x)

        return term.build(replace(without_network(term.network), denoiser=second))

    def guide(y: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        asked()
        values = y.flatten(1).mean(1)
        if term.role == "classifier":
            return values[:, None].expand(-1, 2)
        alone = isinstance(getattr(term, term.role), Weights)
        return values if alone else values.expand(len(term.guides), -1)

    stand_in: Any = guide
    return term.build(stand_in, lambda sigma: sigma)


def without_weights(score: Weights) -> ScoreModel:
    """Returns the score model of a network that knows its noise levels and cannot be evaluated."""
    import torch

    with torch.device("meta"):
        return score_network(score).score_model(score.step.fresh())


def without_network(score: Weights) -> ScoreModel:
    """Returns the score model of a network, with its noise levels and schedule, that treats every input as
    noise."""
    import torch

    # Rounding to the network's own levels would move at most a few of them across the edge of a window.
    model = without_weights(score)
    return replace(
        model,
        denoiser=lambda x, sigma, labels: torch.zeros_like(x),
        predictor=None if model.predictor is None else lambda y, time, labels: (y, torch.zeros_like(y)),
        round_sigma=None,
    )
