"""No core case of a golden folder is left out: each one is claimed by a test that compares all of its
outputs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from parity.goldens import Case, cases

CLAIMING = [
    path.stem for path in sorted(Path(__file__).parent.glob("test_*.py")) if "\nCLAIMS" in path.read_text()
]


@pytest.mark.parametrize("case", cases(lambda case: case.scope == "core"))
def test_every_core_case_is_compared_by_some_test(case: Case) -> None:
    claims = [claim for name in CLAIMING for claim in import_module(f"parity.{name}").CLAIMS]
    assert len(claims) > 10
    assert any(claim(case) for claim in claims), (
        f"{case.name} ({case.reference}) is of a kind that no test knows: {sorted(case.config)}"
    )
