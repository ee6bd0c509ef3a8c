"""Which folder of metric goldens the tests run against, and its cases.

$DGFLOW_METRIC_GOLDENS names the folder; else it is the full set beside the repository, or, where that is absent, the small set of the
repository. Every case whose input is in the folder is tested, so that another set, with other seeds, shapes and cases, can be put in.
"""

import json
import os
from pathlib import Path

import numpy as np

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
LOGITS = np.load(FOLDER / "logits.npz")

FEATURE_CASES = [case for case in TRUTH["features"] if (FOLDER / f"feat_{case}.npz").exists()]
STATS_CASES = [case for case in FEATURE_CASES if (FOLDER / f"stats_{case}.npz").exists()]
RADII_CASES = [case for case in FEATURE_CASES if (FOLDER / f"exact_radii_{case}.npz").exists()]
LOGITS_CASES = [case for case in TRUTH["logits"] if case in LOGITS.files]


def features(case: str) -> tuple[np.ndarray, np.ndarray]:
    """(real [N, D], fake [M, D]), float32."""
    stored = np.load(FOLDER / f"feat_{case}.npz")
    return stored["real"], stored["fake"]
