"""Detection of samples that two slices share: the same indices of a step, or the same seeds of one sampler
under another name. Uses only the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from dgflow.specs.step import Slice, Step, Weights
from dgflow.specs.train_step import TrainStep
from dgflow.steps.encode import Encode
from dgflow.steps.merge import Merge
from dgflow.steps.training.train_discriminator import TrainDiscriminator
from dgflow.steps.training.train_score import TrainScore
from dgflow.store.identity import canonical_json

# Fields of a sampler's step that do not affect a sample's noise and label; its seed is compared separately.
_NOT_DRAWN = {"seed", "seeding", "shard_size", "batch_size", "precision", "compile"}


def shared(a: Slice, b: Slice) -> int:
    """Returns the number of samples that are drawn identically in both."""
    a, b = a.origin, b.origin
    if a.step.fingerprint == b.step.fingerprint:
        return _overlap(a, b)
    ours, theirs = a.step.seeds, b.step.seeds
    if ours is None or theirs is None or ours[1] != theirs[1] or _sampler(a.step) != _sampler(b.step):
        return 0
    if ours[1] == "edm":  # sample i is drawn with seed + i
        return _overlap(a, b, ours[0], theirs[0])
    return _overlap(a, b) if ours == theirs else 0


def check_seeds_differ(name: str, arm: Sequence[Slice]) -> None:
    """Raises ValueError if the slices of an arm, one per sampling seed, share samples."""
    for a, b in combinations(arm, 2):
        if not (common := shared(a, b)):
            continue
        found = f"{a.title} and {b.title}, which share {common:,} of {a.rows:,} samples"
        if a.drawn.seeding == "edm" and a.drawn.seed != b.drawn.seed:
            first = min(part.drawn.seed or 0 for part in arm)
            seeds = ", ".join(str(first + place * a.rows) for place in range(len(arm)))
            raise ValueError(
                f'arm {name!r}: expected seeds that are {a.rows:,} apart, since with seeding="edm" sample i '
                f"is drawn with seed + i; found {found}; use the seeds {seeds}"
            )
        raise ValueError(
            f"arm {name!r}: expected slices without a sample in common, one for each sampling seed, found "
            f"{found}: their spread would be too small; use other seeds, or indices that do not overlap"
        )


def trained_on(name: str, arm: Sequence[Slice], steps: Iterable[Step]) -> list[str]:
    """Returns a warning if samples of an arm are the fakes on which a discriminator of the recipe was
    trained."""
    trainings = [step for step in steps if isinstance(step, TrainDiscriminator)]
    for part in arm:
        fakes = [images_behind(fake) for training in trainings for fake in training.fakes]
        common = max((shared(part, fake) for fake in fakes), default=0)
        if common:
            return [
                f"arm {name!r}: {common:,} of the {part.rows:,} samples of {part.title} are fakes on "
                "which a discriminator of this recipe was trained, so they are not new to the "
                "discriminator; use another seed for the arm or for the fakes"
            ]
    return []


def trained_rows(weights: Weights, part: Slice) -> list[range]:
    """Returns the indices of `part`'s step that a network was trained on, real or fake: a range for each
    slice of that step that it read; for a bagged discriminator, all that it drew from."""
    step = weights.step
    if not isinstance(step, TrainStep):
        return []
    own, bagged = {"real": step.real}, False
    if isinstance(step, TrainDiscriminator):
        own = {name: step.slice_of(name) for name in step.slice_names}
        bagged = step.bootstrap is not None
    return [
        range(each.start, each.start + (each.rows if bagged else step.split(name)[0]))
        for name, each in own.items()
        if each.fingerprint == part.fingerprint
    ]


def fakes_seen(weights: Weights, part: Slice) -> int:
    """Returns the number of samples of `part` that are drawn identically to fakes of a discriminator's
    training; for a bagged discriminator, to fakes that it may have drawn."""
    step = weights.step
    if not isinstance(step, TrainDiscriminator):
        return 0
    _, *names = step.slice_names
    fakes = [
        fake if step.bootstrap is not None else fake.step[fake.start : fake.start + step.split(name)[0]]
        for name, fake in zip(names, step.fakes, strict=True)
    ]
    return max(shared(part, images_behind(fake)) for fake in fakes)


def check_held_out(field: str, weights: Weights, part: Slice) -> None:
    """Raises ValueError, naming the field, if a network was trained on one of the samples."""
    for trained in trained_rows(weights, part):
        if part.start < trained.stop and trained.start < part.stop:
            first, last = trained.start, trained.stop
            raise ValueError(
                f"{field}: expected images that {weights.step.title} was not trained on, found "
                f"[{part.start}:{part.stop}], of which [{first}:{last}] were in its training; take "
                f"others, such as [{last}:{last + part.rows}]"
            )


def not_trained_on(networks: Iterable[Weights], part: Slice) -> Slice:
    """Returns the slice of a toy step, moved behind the samples that networks were trained on: a toy training
    holds out a different share. At least two rows."""
    trained = [rows.stop for weights in networks for rows in trained_rows(weights, part)]
    begin = max([part.start, *trained])
    return part.step[begin : max(part.stop, begin + 2)]


def seen(weights: Weights, part: Slice) -> int:
    """Returns the number of samples of `part` that a network, or one behind it, was trained on."""
    known = np.zeros(part.rows, dtype=bool)
    for each in _and_behind(weights):
        for trained in trained_rows(each, part):
            known[max(0, trained.start - part.start) : max(0, trained.stop - part.start)] = True
    return int(known.sum())


def _and_behind(weights: Weights) -> Iterator[Weights]:
    """Yields a network and the networks behind it: those that its training started from, was weighted by, or
    took features from, and those that it is merged from."""
    yield weights
    step, behind = weights.step, list[Weights | None]()
    if isinstance(step, TrainScore):
        behind = [step.start, None if step.weighting is None else step.weighting.discriminator]
    elif isinstance(step, TrainDiscriminator):
        behind = [step.features]
    elif isinstance(step, Merge):
        behind = [step.base, step.tuned]
    for each in behind:
        if each is not None:
            yield from _and_behind(each)


def images_behind(part: Slice) -> Slice:
    """Returns the images behind encoded ones, else the slice itself."""
    while isinstance(part.step, Encode):
        images = part.step.images
        part = images.step[images.start + part.start : images.start + part.stop]
    return part


def _overlap(a: Slice, b: Slice, first: int = 0, other: int = 0) -> int:
    return max(0, min(a.stop + first, b.stop + other) - max(a.start + first, b.start + other))


def _sampler(step: Step) -> str:
    """Returns the step without its seed and the fields that do not affect its draws."""
    fields = {name: value for name, value in step.plain_fields().items() if name not in _NOT_DRAWN}
    return canonical_json([step.kind, fields])
