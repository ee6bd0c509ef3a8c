"""The folder of metric goldens in use, and its cases.

$DGFLOW_METRIC_GOLDENS names the folder; else it is the full set beside the repository, or, where that is
absent, the small set of the repository. Every number whose input is in the folder is tested, so that another
set, with other seeds, shapes, cases and versions of the libraries, can be put in; what may be asked of a case
is decided from its features, not from its name.
"""

import json
import os
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from dgflow.metrics.openai_distances import BLOCK_ROWS

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = REPOSITORY / "tests" / "goldens" / "metrics"


def folder() -> Path:
    if named := os.environ.get("DGFLOW_METRIC_GOLDENS"):
        return Path(named)
    beside = REPOSITORY.parent / "shared" / "goldens" / "metrics"
    return beside if beside.is_dir() else SMALL


FOLDER = folder()
TRUTH = json.loads((FOLDER / "torch_scipy.json").read_text())
ADM = json.loads((FOLDER / "adm.json").read_text())
STATED = json.loads((SMALL / "torch_scipy.json").read_text())["features"]
LOGITS = np.load(FOLDER / "logits.npz")

FEATURE_CASES = [case for case in TRUTH["features"] if (FOLDER / f"feat_{case}.npz").exists()]
STATS_CASES = [case for case in FEATURE_CASES if (FOLDER / f"stats_{case}.npz").exists()]
RADII_CASES = [case for case in FEATURE_CASES if (FOLDER / f"exact_radii_{case}.npz").exists()]
LOGITS_CASES = [case for case in TRUTH["logits"] if case in LOGITS.files]


def having(*keys: str, library: dict = TRUTH) -> list[str]:
    """Cases for which all these numbers are stored."""
    return [case for case in FEATURE_CASES if all(key in library["features"].get(case, {}) for key in keys)]


def numbers(pattern: str, library: dict = TRUTH) -> list:
    """Parameters (case, stored number, the integers in the groups of `pattern`) of every number whose whole
    name `pattern` matches."""
    return [
        pytest.param(case, value, *(int(number) for number in match.groups()), id=f"{case}-{key}")
        for case in FEATURE_CASES
        for key, value in library["features"].get(case, {}).items()
        if (match := re.fullmatch(pattern, key))
    ]


@cache
def features(case: str) -> tuple[np.ndarray, np.ndarray]:
    """(real [N, D], fake [M, D]), float32."""
    stored = np.load(FOLDER / f"feat_{case}.npz")
    return stored["real"], stored["fake"]


def is_stated(case: str) -> bool:
    """True if the README states tolerances for exactly this case, not for one of that name from other
    seeds.
    """
    return TRUTH["features"][case] == STATED.get(case)


@cache
def is_singular(case: str) -> bool:
    """True if a covariance is singular: fewer rows than features, or columns that are dependent up to float32
    rounding.
    """
    for rows in features(case):
        spread = np.linalg.svd(rows - rows.mean(axis=0, dtype=np.float64), compute_uv=False)
        if len(rows) <= rows.shape[1] or spread[-1] <= np.finfo(np.float32).eps * spread[0]:
            return True
    return False


@cache
def longest_squared(case: str) -> float:
    """The largest |x|^2 of both sides."""
    return max(float(np.square(rows, dtype=np.float64).sum(axis=1).max()) for rows in features(case))


def is_beyond_float16(case: str) -> bool:
    """True if some |x|^2 exceeds float16, as in the README's `far` and `fp16_overflow`."""
    return longest_squared(case) > float(np.finfo(np.float16).max)


def openai_is_exact(case: str) -> bool:
    """True if OpenAI's evaluator has the same counts as exact distances: in one float32 block, of equal
    sides, of integers that float16 holds.
    """
    real, fake = features(case)
    if (
        not ADM["features"][case].get("adm_block_first_is_fp16", True)
        and max(len(real), len(fake)) <= BLOCK_ROWS
    ):
        return True
    integers = all(bool((rows == np.round(rows)).all()) for rows in (real, fake))
    return np.array_equal(real, fake) or (integers and 4 * longest_squared(case) <= 2048)
