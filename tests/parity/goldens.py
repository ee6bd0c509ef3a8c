"""Golden numbers of the reference implementations: find the cases, load them, compare with their tolerances.

A golden folder holds `cases.json` (case name -> npz, weights, config, noise, scope), `<case>.npz` with `in_*`
and `out_*` arrays and `*.safetensors` with whole state dicts. The folder is the one that the environment
variable DGFLOW_GOLDENS names, else `shared/goldens/networks` beside the repository, else
`tests/goldens/networks` (a small part of the same numbers); for the numbers of other methods it is
DGFLOW_WORKBENCH_GOLDENS, and `workbench` in the place of `networks`. Tests choose cases by what a case's
config says, so that another folder of the same layout (other widths, depths, seeds) runs through the same
tests. What a case means, and which of its outputs are compared, is left to the tests.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = REPOSITORY / "tests" / "goldens" / "networks"
VARIABLES = {"networks": "DGFLOW_GOLDENS", "workbench": "DGFLOW_WORKBENCH_GOLDENS"}
NOISE_FACTOR = 30.0
"""A result may differ by this many times the measured noise of the reference run with its float32 operations
reordered."""


@dataclass(frozen=True)
class Case:
    """One entry of `cases.json`: a name, the folder that it was read from, and the entry itself."""

    name: str
    folder: Path
    entry: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.entry["config"]

    @property
    def reference(self) -> str:
        """Repositories and files the numbers come from, as one string to search in."""
        return json.dumps(self.entry["reference"])

    @property
    def scope(self) -> str:
        return self.entry["scope"]


def folder(kind: str = "networks") -> Path:
    """The golden folder in use. FileNotFoundError when there is none, or when the kind's variable names a
    folder without `cases.json`."""
    named, own = os.environ.get(VARIABLES[kind]), SMALL.parent / kind
    places = [Path(named)] if named else [REPOSITORY.parent / "shared" / "goldens" / kind, own]
    for place in places:
        if (place / "cases.json").is_file():
            return place
    raise FileNotFoundError(
        f"no cases.json in {' or '.join(map(str, places))}: point {VARIABLES[kind]} at a folder of golden "
        "cases"
    )


@cache
def _entries(place: Path) -> dict[str, dict[str, Any]]:
    return json.loads((place / "cases.json").read_text())


def cases(predicate: Callable[[Case], bool], kind: str = "networks") -> list[Any]:
    """`pytest.param(case, id=name)` for every case that `predicate` accepts, in the file's order."""
    place = folder(kind)
    found = [Case(name, place, entry) for name, entry in _entries(place).items()]
    return [pytest.param(case, id=case.name) for case in found if predicate(case)]


def load(case: Case) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """The case's config, its arrays by full name (`in_x`, `out_logits`, with their stored dtypes) and its
    state dicts by model name."""
    with np.load(case.folder / case.entry["npz"], allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    weights = {
        model: load_file(case.folder / name) for model, name in (case.entry.get("weights") or {}).items()
    }
    return case.config, arrays, weights


def close(
    case: Case,
    key: str,
    actual: Tensor,
    expected: Tensor,
    *,
    rtol: float = 0.0,
    atol: float | Tensor = 0.0,
    of_max: float = 0.0,
) -> None:
    """Assert `actual` = `expected` within the tolerance: the stated one or 30 times the measured rounding
    noise, whichever is larger.

    Args:
        key: name of the output, with or without `out_`; the measured noise is looked up under it.
        rtol, atol, of_max: the tolerance that the case states: |actual - expected| <= rtol * |expected| +
            atol + of_max * max|expected|. A tensor `atol` has the shape of `expected`, or one that is
            broadcast to it: what float32 leaves of each number.

    NaN and infinities must stand in the same places. Compared in float64; shapes must be equal.
    """
    key = key.removeprefix("out_")
    assert actual.shape == expected.shape, (
        f"{case.name} {key}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    )
    actual, expected = actual.detach().cpu().double(), expected.double()
    finite = expected.isfinite()
    assert torch.equal(actual.isfinite(), finite), (
        f"{case.name} {key}: NaN or infinity where it is not expected, or the reverse"
    )
    torch.testing.assert_close(actual[~finite], expected[~finite], rtol=0, atol=0, equal_nan=True)
    if not finite.any():
        return
    rounding = torch.as_tensor(atol, dtype=torch.float64).expand(expected.shape)[finite]
    actual, expected = actual[finite], expected[finite]
    largest = float(expected.abs().max())
    noise = float(case.entry.get("rounding_noise_rel_to_max", {}).get(key, 0.0))
    allowed = (rtol * expected.abs() + rounding + of_max * largest).clamp_min(NOISE_FACTOR * noise * largest)
    error = (actual - expected).abs()
    worst = int((error - allowed).argmax())
    assert bool((error <= allowed).all()), (
        f"{case.name} {key}: found {float(actual[worst]):.9g}, expected {float(expected[worst]):.9g} (error "
        f"{float(error[worst]):.3g}, allowed {float(allowed[worst]):.3g}; largest |expected| {largest:.3g}, "
        f"measured noise {noise:.3g} of it)"
    )
