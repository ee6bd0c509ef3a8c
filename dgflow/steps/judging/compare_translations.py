"""CompareTranslations: faithfulness to the source against realism in the target domain, over start times."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import model_validator

from dgflow.metrics.trade_off import mean_gap
from dgflow.specs.figures import Figure, Metric
from dgflow.specs.graph import graph
from dgflow.specs.step import Reference, Slice, Spread, Weights
from dgflow.steps.arm_values import over_seeds, standard_error
from dgflow.steps.judging.evaluate import Evaluate
from dgflow.steps.judging.measure_fields import Comparison
from dgflow.steps.judging.shared_samples import images_behind, trained_on
from dgflow.steps.judging.translation_figures import translation_figures
from dgflow.steps.sources.image_set import ImageSet
from dgflow.steps.translate import Translate
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore

SOURCE = "source"
"""Name of the row of the source images, at start time 0."""


class System(NamedTuple):
    """The translations of an arm from one start time, one slice per seed: their positions in the arm."""

    arm: str
    start: float
    places: tuple[int, ...]

    @property
    def title(self) -> str:
        return f"{self.arm}, start {self.start}"

    @property
    def names(self) -> list[str]:
        """The slices, by the names under which the step reads them."""
        return [f"arms.{self.arm}.{place}" for place in self.places]


class CompareTranslations(Comparison):
    """Translations of the same source images from several start times, with and without guidance (Kim et al.
    2023, section 5.3 and figure 12).

    An arm has slices of `Translate` (for latents, decoded ones): one per seed at every start. All slices of
    an arm have the same score network, sampler, grid and labels; guidance may differ from start to start. The
    measurements are

    - faithfulness: the L2 distance of every image to its source, with pixel values in [0, 1], and the
      Euclidean distance of their `features`;
    - realism: FID of a whole slice to the `reference`, images of the target domain.

    The file holds both by arm and start with their spread over seeds. For each arm after the first it also
    holds how far the arm's curve of FID over a distance lies below the first arm's, on average over the
    distances that both reach and per seed (`lift`). The order of the arms is not part of the identity: with
    the arms in another order the file stays the same, and so does the arm that the others are compared with.

    `evaluate()` is the table with all of it; for the other fields see `Evaluate`.
    """

    quantities: ClassVar[Mapping[str, Metric]] = {
        "l2": Metric("L2 to source", 3),
        "perceptual": Metric("feature distance", 2),
    }

    arms: dict[str, tuple[Slice, ...]]
    features: Weights
    floor: Slice | ImageSet | None = None

    @model_validator(mode="after")
    def _comparable(self) -> CompareTranslations:
        if not self.arms or not all(self.arms.values()):
            raise ValueError("expected one or more arms, each of one slice or more, found none")
        if self.metrics is not None and "fid" not in self.metrics:
            raise ValueError(
                "metrics: expected fid among them, which is the realism of the curves, found "
                f"{', '.join(self.metrics)}"
            )
        first = next(iter(self.arms.values()))[0]
        for name, arm in self.arms.items():
            for part in arm:
                _check_part(name, part, first)
                _check_alike(name, part, arm[0])
            self._check_seeds(name)
        _ = self.evaluation  # checks the rest
        return self

    def _check_seeds(self, name: str) -> None:
        """Raises ValueError for an arm without the same seeds at every start, those of the first arm."""
        expected = self._seeds(self.systems[0])
        for system in self.systems:
            if system.arm == name and (found := self._seeds(system)) != expected:
                raise ValueError(
                    f"arm {name!r}: expected the seeds {expected} at every start time, found {found} at "
                    f"{system.start}: the curves are compared seed by seed"
                )

    def _seeds(self, system: System) -> list[int | None]:
        return [self.arms[system.arm][place].drawn.seed for place in system.places]

    @property
    def title(self) -> str:
        return f"comparison of translations, {', '.join(self.arms)}"

    @cached_property
    def systems(self) -> tuple[System, ...]:
        """The systems arm by arm, in ascending order of start."""
        found = []
        for name, arm in self.arms.items():
            starts = [_translate(part).start for part in arm]
            for start in sorted(set(starts)):
                places = tuple(place for place, own in enumerate(starts) if own == start)
                found.append(System(name, start, places))
        return tuple(found)

    @property
    def source(self) -> Slice:
        """The images that every slice translates."""
        part = next(iter(self.arms.values()))[0]
        origin, source = part.origin, _translate(part).source
        return images_behind(source.step[source.start + origin.start : source.start + origin.stop])

    @cached_property
    def evaluation(self) -> Evaluate:
        """The step that measures the FID of every system, and of the sources themselves."""
        shared = {name: getattr(self, name) for name in ("features", "floor", *Comparison.model_fields)}
        arms = {
            system.title: tuple(self.arms[system.arm][place] for place in system.places)
            for system in self.systems
        }
        return Evaluate(arms=arms | {SOURCE: (self.source,)}, **shared)

    def evaluate(self) -> Evaluate:
        """Returns the table: a row per arm and start with realism and faithfulness; the curves are on its
        page."""
        return self.evaluation.model_copy(update={"beside": (self.result(),)})

    def cautions(self) -> list[str]:
        return trained_on(SOURCE, (self.source,), [node.step for node in graph(self)])

    def inputs(self) -> dict[str, Reference]:
        """The inputs of the table for every slice, and the images and features that the step also reads."""
        measured = self.evaluation.measures
        inputs: dict[str, Reference] = {
            "source": self.source,
            "source.features": measured[f"arms.{SOURCE}.0"].inputs()["samples"],
            "source.measured": measured[f"arms.{SOURCE}.0"].result(),
        }
        for system in self.systems:
            for number, name in enumerate(system.names):
                measure = measured[f"arms.{system.title}.{number}"]
                inputs[name] = self.arms[system.arm][system.places[number]]
                inputs[f"{name}.features"] = measure.inputs()["samples"]
                inputs[f"{name}.measured"] = measure.result()
        return inputs

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns JSON: `curves` by arm, `source_fid`, `lift` by arm and distance."""
        del store
        from dgflow.steps.judging.faithfulness import DISTANCES, distances

        def fid(name: str) -> float:
            return json.loads(inputs.result(f"{name}.measured"))["values"]["fid"]

        names = [name for system in self.systems for name in system.names]
        found = distances(inputs, names, self.source.rows, spread)
        curves: dict[str, list[dict[str, Any]]] = {name: [] for name in self.arms}
        for system in self.systems:
            point = {"start": system.start, "fid": over_seeds([fid(name) for name in system.names])}
            for distance in DISTANCES:
                values = [found[name][distance] for name in system.names]
                errors = [float(standard_error(each)) for each in values]
                point[distance] = over_seeds([float(each.mean()) for each in values]) | {"errors": errors}
            curves[system.arm].append(point)
        base, *others = self.arms
        lift = {
            name: {distance: _lift(curves[name], curves[base], distance) for distance in DISTANCES}
            for name in others
        }
        return canonical_json(
            {
                "curves": curves,
                "lift": lift,
                "n": self.source.rows,
                "seeds": self._seeds(self.systems[0]),
                "source_fid": fid("source"),
            }
        ).encode()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        """Returns the values by arm and start, as in the table, and those of the sources, whose distances are
        0."""
        curves = json.loads(content)["curves"]
        points = (point for name in self.arms for point in curves[name])
        found = {
            system.title: {name: point[name] for name in self.quantities}
            for system, point in zip(self.systems, points, strict=True)
        }
        return found | {SOURCE: {name: over_seeds([0.0]) for name in self.quantities}}

    def figures(self, content: bytes) -> Sequence[Figure]:
        found = json.loads(content)
        ordered = {
            part: {name: found[part][name] for name in self.arms if name in found[part]}
            for part in ("curves", "lift")
        }
        return translation_figures(found | ordered, self.quantities)


def _lift(curve: list[dict[str, Any]], base: list[dict[str, Any]], distance: str) -> dict[str, Any] | None:
    """Returns the distance by which a curve of FID lies below another one, per seed; None if they share no
    distances."""

    def of_seed(points: list[dict[str, Any]], seed: int) -> tuple[list[float], list[float]]:
        x, y = ([point[key]["per_seed"][seed] for point in points] for key in (distance, "fid"))
        return x, y

    seeds = range(len(base[0]["fid"]["per_seed"]))
    gaps = [mean_gap(of_seed(curve, seed), of_seed(base, seed)) for seed in seeds]
    known = [gap for gap in gaps if gap is not None]
    return over_seeds(known) if len(known) == len(gaps) else None


def _translate(part: Slice) -> Translate:
    step = part.origin.step
    assert isinstance(step, Translate)
    return step


def _check_part(name: str, part: Slice, first: Slice) -> None:
    """Raises ValueError for a slice that does not translate the sources of `first`."""
    step = part.origin.step
    if not isinstance(step, Translate):
        raise ValueError(
            f"arm {name!r}: expected slices of Translate, or of Decode with its latents, found {part.title}"
        )
    if not isinstance(first.origin.step, Translate):
        return
    own, other = (
        (each.source.fingerprint, each.source.start + place.start, each.source.start + place.stop)
        for each, place in ((step, part.origin), (first.origin.step, first.origin))
    )
    if own != other:
        raise ValueError(
            f"arm {name!r}: expected translations of the same source images in every slice, found "
            f"[{own[1]}:{own[2]}] of {step.source.step.title} beside [{other[1]}:{other[2]}] of "
            f"{first.origin.step.source.step.title}"
        )


def _check_alike(name: str, part: Slice, first: Slice) -> None:
    """Raises ValueError for a slice whose settings differ from those of the arm's first slice."""
    own, other = _translate(part), _translate(first)
    for field in ("score", "sampler", "grid", "labels"):
        if getattr(own, field) != getattr(other, field):
            raise ValueError(
                f"arm {name!r}: expected translations with one {field} at every start time, found another at "
                f"{own.start} than at {other.start}"
            )
