"""Results of steps as pandas DataFrames. Needs pandas (`pip install "dgflow[python]"`), imported only by
these functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dgflow.extras import require
from dgflow.specs.figures import Table

if TYPE_CHECKING:
    from pandas import DataFrame

    from dgflow.report.outcome import Outcome
    from dgflow.store.shards import Columns


def frame_of_rows(rows: Sequence[Mapping[str, Any]], index: str) -> DataFrame:
    """A DataFrame of rows, with the column `index` as its index."""
    require("pandas", "a DataFrame")
    import pandas

    return pandas.DataFrame(
        list(rows), columns=list(dict.fromkeys(name for row in rows for name in row)) or [index]
    ).set_index(index)


def frame_of_epochs(metrics: Mapping[int, Mapping[str, Any]]) -> DataFrame:
    """One row per epoch, with the numeric measurements."""
    rows = [
        {"epoch": epoch} | {name: value for name, value in values.items() if isinstance(value, int | float)}
        for epoch, values in metrics.items()
    ]
    return frame_of_rows(rows, "epoch")


def frame_of_samples(columns: Columns) -> DataFrame:
    """One row per sample, with its scalar columns: label, log_ratio, ..."""
    require("pandas", "a DataFrame")
    import pandas

    numbers = {name: values for name, values in columns.items() if values.ndim == 1}
    return pandas.DataFrame(numbers).set_index("index")


def frame_of_arms(outcome: Outcome, *, per_seed: bool) -> DataFrame:
    """One row per arm: the mean of each quantity and, in `<quantity>_spread`, its standard deviation over
    seeds; with `per_seed` one row per arm and seed. Empty for a step that compares no arms.
    """
    rows: list[dict[str, Any]] = []
    for name, arm in outcome.arms.items():
        shown = {key: arm[key] for key in outcome.shown if key in arm}
        if per_seed:
            count = max((len(value["per_seed"]) for value in shown.values()), default=0)
            seeds = arm.get("seeds", range(1, count + 1))
            rows += [
                {"arm": name, "seed": seed}
                | {
                    key: value["per_seed"][number]
                    for key, value in shown.items()
                    if number < len(value["per_seed"])
                }
                for number, seed in zip(range(count), seeds, strict=False)
            ]
        else:
            means = ({key: value["mean"], f"{key}_spread": value["spread"]} for key, value in shown.items())
            rows.append({"arm": name} | {key: value for each in means for key, value in each.items()})
    frame = frame_of_rows(rows, "arm")
    return frame.astype({name: float for name in frame.columns if name.endswith("_spread")})


def frame_of_table(table: Table) -> DataFrame:
    """A DataFrame of a table's cells, as text."""
    require("pandas", "a DataFrame")
    import pandas

    rows = [list(row) for row in table.rows]
    return pandas.DataFrame(rows, columns=list(table.heading)).set_index(table.heading[0])
