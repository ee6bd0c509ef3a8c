"""A step with figures of every kind and made-up arms, as the last step of a recipe or within one."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dgflow.engine.plan import step_plan
from dgflow.engine.root import Root
from dgflow.specs.figures import Cloud, Curve, Figure, HeatMap, Lines, Metric, Pictures, PlanePlot, Table
from dgflow.specs.graph import graph
from dgflow.specs.step import Result, ResultStep
from dgflow.store.objects import ObjectStore

HOSTILE = "</svg><script>alert('x')</script>"
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
"""A grey PNG of one pixel."""
WEIGHTS = [0.0, 0.5, 1.0, 2.0]


class Ladder(ResultStep):
    """FID by weight, from the table of an evaluation."""

    quantities: ClassVar[Mapping[str, Metric]] = {
        "fid": Metric("FID", 2),
        "gain": Metric("Gain", 3, lower_is_better=False),
    }

    table: Result

    @property
    def title(self) -> str:
        return "ladder of weights"

    def compute(self, inputs, spread, store) -> bytes:
        return content()

    def compared(self, content: bytes) -> Mapping[str, Mapping[str, Any]]:
        return json.loads(content)["arms"]

    def figures(self, content: bytes) -> Sequence[Figure]:
        fid = json.loads(content)["fid"]
        return [
            Lines("FID by weight", [Curve("guided", WEIGHTS, fid, [0.5] * 4)], "weight", mark=(1.0, "best")),
            *every_kind(),
        ]


def content() -> bytes:
    def over(values: list[float]) -> dict[str, Any]:
        spread = 0.25 if len(values) > 1 else None
        return {"mean": sum(values) / len(values), "spread": spread, "per_seed": values}

    arms = {
        "weight 0": {"fid": over([38.0, 39.0]), "gain": over([0.0])},
        "weight 1": {"fid": over([29.0, 29.5])},
    }
    return json.dumps({"arms": arms, "fid": [38.9, 33.0, 29.25, 31.0]}).encode()


def every_kind() -> list[Figure]:
    """Returns a figure of each kind, with captions that are long or hostile."""
    grid = [float(x) for x in range(-3, 4)]
    return [
        Lines(
            "Eight discriminators under a title that is too long for one line of a figure",
            [
                Curve(f"discriminator {k}", range(40), [k + math.sin(k + x / 5) for x in range(40)])
                for k in range(8)
            ],
            "epoch",
            "held-out loss",
            mark=(3.0, "a caption that meets the label"),
            level=(4.0, "chance, in the middle of all curves"),
        ),
        Lines(
            f"KL {HOSTILE}",
            [
                Curve("learned", [0.01, 1.0, 100.0], [1e-6, 0.1, 1e3], [1.0, 0.05, 10.0]),
                Curve("exact", [0.01, 1.0, 100.0], [2e-6, 0.2, 0.0], style="dashed"),
                Curve("measured", [0.01, math.nan, 100.0], [2e-6, 0.2, 9.0], style="points"),
            ],
            "sigma",
            "nats",
            log_x=True,
            log_y=True,
            mark=(100.0, "the largest noise level there is"),
        ),
        Lines(
            "FID by cost of more methods than there are looks",
            [
                Curve(f"method {k}", [1.0 + k, 2.0 + k], [9.0 - k / 2, 8.0 - k / 3], [0.2, 0.3])
                for k in range(11)
            ],
            "GFLOP per sample",
            "FID",
            log_x=True,
            front=([(1.0, 9.0), (2.0, 8.0), (11.0, 4.0)], "Pareto front"),
        ),
        HeatMap(
            "FID by weight and epoch",
            "epochs",
            "weight",
            [str(2**k) for k in range(12)],
            ["0.5", "1"],
            [[40.0 - k for k in range(12)], [None, *(35.0 - k for k in range(11))]],
            [[f"{40 - k:.2f} ± 0.41" for k in range(12)], ["", *(f"{35 - k:.2f} ± 0.41" for k in range(11))]],
            marked=[(0, 11), (1, 11)],
            note="framed: the best, and all within its error",
        ),
        HeatMap(
            "recall",
            "epochs",
            "",
            ["4", "8"],
            [""],
            [[0.5, 0.75]],
            [["0.500", "0.75"]],
            lower_is_better=False,
        ),
        PlanePlot(
            "Samples and correction of the score at sigma 0.5",
            (-4.0, 4.0),
            (-2.0, 2.0),
            [Cloud("data", [(0.0, 0.0), (1.0, 1.0), (9.0, 9.0)]), Cloud("model", [(-4.0, 2.0)])],
            [((x, y), (-0.1 * x, 0.2 * y)) for x in grid for y in grid if abs(y) <= 2],
        ),
        Table(
            "Arms",
            ["weight", "FID", "note"],
            [["0.5", "33.00", HOSTILE], ["1", "29.25", "as <b>"]],
            marked=[1],
        ),
        Pictures(
            f"Averages {HOSTILE}",
            ["image", HOSTILE, *(f"sigma {k}" for k in range(12))],
            [(f"{number}, guided", [DOT] * 13 + [None]) for number in range(2)],
            side=1,
            note="pictures are shown as they are",
        ),
    ]


def commit_ladder(target: Ladder, store: ObjectStore) -> None:
    """Commits the file of a step whose evaluation exists."""
    root, known = Root(store), {}
    made = [step_plan(root, node, known) for node in graph(target)][-1]
    assert made.bound is not None
    steps = root.step_store(made.step)
    steps.declare(made.step.document())
    steps.commit(
        made.folder,
        0,
        content(),
        suffix=".json",
        rows_sha256="0" * 64,
        inputs=made.bound.digests,
        seconds=1.0,
        device="cpu",
        versions={},
    )
