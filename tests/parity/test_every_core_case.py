"""No core case of a golden folder is left out: each one is claimed by a test that compares all of its
outputs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from parity.goldens import Case, cases

FILES = {path.stem: path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py"))}
CLAIMING = {
    kind: [name for name, text in FILES.items() if "\nCLAIMS" in text and ('"workbench")' in text) == other]
    for kind, other in (("networks", False), ("workbench", True))
}
"""The files with claims, by the kind of folder that their cases are read from."""


def is_elsewhere(case: Case) -> bool:
    """True for kinds outside dgflow: flow matching in another time (SiT, REPA), or another judge (DINOv2, and
    distances from its statistics).
    """
    kinds = ("/SiT", "/REPA", "/dinov2", "DINOv2", "calculate_metrics_from_stats")
    return any(kind in case.reference for kind in kinds)


def core(kind: str) -> list:
    return cases(lambda case: case.scope == "core" and not is_elsewhere(case), kind)


def check_claimed(case: Case, kind: str) -> None:
    claims = [claim for name in CLAIMING[kind] for claim in import_module(f"parity.{name}").CLAIMS]
    assert any(claim(case) for claim in claims), (
        f"{case.name} ({case.reference}) is of a kind that no test knows: {sorted(case.config)}"
    )


@pytest.mark.parametrize("case", core("networks"))
def test_every_core_case_is_compared_by_some_test(case: Case) -> None:
    check_claimed(case, "networks")


@pytest.mark.parametrize("case", core("workbench"))
def test_every_core_case_of_the_workbench_is_compared_by_some_test(case: Case) -> None:
    check_claimed(case, "workbench")
