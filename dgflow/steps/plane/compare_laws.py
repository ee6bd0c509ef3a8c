"""CompareLaws: samples in the plane, from any method, compared with the distribution of the data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from dgflow.specs.figures import Figure, Metric
from dgflow.specs.step import Slice, Spread
from dgflow.steps.arm_values import over_seeds
from dgflow.steps.plane.laws_figures import laws_figures
from dgflow.steps.plane.plane_arms import SHOWN, PlaneArms
from dgflow.store.identity import canonical_json

if TYPE_CHECKING:
    from dgflow.specs.bound import Bound
    from dgflow.store.objects import ObjectStore


class CompareLaws(PlaneArms):
    """Arms of samples in the plane, one slice per sampling seed, against a mixture whose density is known.

    The step serves methods whose samples have no known density, such as rejection and resampling. Samples are
    compared with closed forms of the mixture, so that the mixture adds no noise. The file holds for each arm

    - `energy`, the energy distance to the mixture, 0 only for the mixture's distribution;
    - `deviation`, the energy distance in standard errors, those of the same number of true points of the
      mixture;
    - `modes`, half the sum of |share - weight| over the mixture's components, where a component's share is
      its mean posterior probability at the samples: 0 if every mode has its weight;
    - `log_density`, the mean of log p at the samples minus that at the mixture's own points: above 0 if
      samples are drawn to the modes, below if they lie between or beside them;
    - `evaluations`, the score network's evaluations per sample, as recorded if they depend on a selection; 0
      for points that no network drew.
    """

    quantities: ClassVar[Mapping[str, Metric]] = {
        "energy": Metric("energy distance", 4),
        "deviation": Metric("in standard errors", 1),
        "modes": Metric("weights of modes, error", 4),
        "evaluations": Metric("score evaluations", 1),
    }

    def check_arm(self, name: str, arm: Sequence[Slice]) -> None:
        for part in arm:
            shape = part.step.shape
            if not part.step.gives_latents or shape.values != 2:
                raise ValueError(
                    f"arm {name!r}: expected points of the plane, as latents of 2 channels and 1 pixel, "
                    f"found {part.title} of {shape.channels} channels and {shape.image_size} pixels "
                    "per side"
                )
            if part.rows < 2:
                raise ValueError(f"arm {name!r}: expected two or more samples per slice, found one")
        if len({part.rows for part in arm}) > 1:
            raise ValueError(
                f"arm {name!r}: expected slices of one length, whose mean has one standard error, found "
                f"{', '.join(f'{part.rows:,}' for part in arm)} samples; take the same number of each"
            )

    @property
    def title(self) -> str:
        return f"laws in the plane of {', '.join(self.arms)}"

    def compute(self, inputs: Bound, spread: Spread, store: ObjectStore) -> bytes:
        """Returns the numbers as JSON."""
        del spread, store
        from dgflow.steps.plane.laws_values import evaluations, law_values, points_of, true_error

        content: dict[str, Any] = {"arms": {}, "points": {}}
        errors: dict[int, float] = {}
        for name, arm in self.arms.items():
            slices = [points_of(inputs, f"arms.{name}.{number}") for number in range(len(arm))]
            found = [
                law_values(self.data, points)
                | {"evaluations": evaluations(part, inputs, f"arms.{name}.{number}")}
                for number, (part, points) in enumerate(zip(arm, slices, strict=True))
            ]
            count = arm[0].rows
            if count not in errors:
                errors[count] = true_error(self.data, count)
            values = {key: over_seeds([each[key] for each in found]) for key in found[0]}
            deviation = values["energy"]["mean"] / errors[count] * math.sqrt(len(arm))
            content["arms"][name] = values | {
                "deviation": over_seeds([deviation]),
                "n": count,
                "seeds": [part.drawn.seed for part in arm],
            }
            content["points"][name] = slices[0][:SHOWN].tolist()
        return canonical_json(content).encode()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        return self._content(content)["arms"]

    def figures(self, content: bytes) -> Sequence[Figure]:
        return laws_figures(self._content(content), self.data)

    def _content(self, content: bytes) -> dict[str, Any]:
        """Returns the file, with arms in the recipe's order; canonical JSON sorts them."""
        found = json.loads(content)
        return {part: {name: found[part][name] for name in self.arms} for part in ("arms", "points")}
