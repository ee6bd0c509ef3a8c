"""The table of claims: every row has a command that a reader can run as it stands, numbers, and a verdict."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from dgflow.cli.guard import guarded
from dgflow.cli.recipe import application

ROOT = Path(__file__).resolve().parents[1]
VERDICTS = ("holds", "does not hold", "cannot be told at this size")
PAGE = (ROOT / "docs" / "claims.md").read_text()
HEADING = ["claim", "command", "measured", "verdict"]


class Claim(NamedTuple):
    claim: str
    command: str
    measured: str
    verdict: str


def commands_in(text: str) -> list[str]:
    return re.findall(r"`(python [^`]+)`", text)


def claims() -> list[Claim]:
    """The rows of all tables of the page that have its heading."""
    rows, inside = [], False
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")] if line.startswith("|") else []
        if inside and cells and not set(line) <= set("|- "):
            rows.append(Claim(*cells))
        inside = cells == HEADING or (inside and bool(cells))
    return rows


CLAIMS = claims()
COMMANDS = sorted(set(commands_in(PAGE)))


def test_at_least_eighteen_claims_have_one_row_each() -> None:
    assert len(CLAIMS) >= 18
    assert len({row.claim for row in CLAIMS}) == len(CLAIMS)


@pytest.mark.parametrize("row", CLAIMS, ids=[row.claim[:50] for row in CLAIMS])
def test_a_claim_has_a_source_a_command_numbers_and_one_of_three_verdicts(row: Claim) -> None:
    assert row.claim.endswith(")") and "(" in row.claim  # figure, table or section
    assert commands_in(row.command) and re.sub(r"`[^`]+`|<br>|[, ;]", "", row.command) == ""
    assert re.search(r"±|exact|\d %|\d\.\d{2}", row.measured)  # a number and how sure it is
    assert row.verdict in VERDICTS


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_claim_is_one_that_its_program_takes(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, script, *arguments = shlex.split(command)
    monkeypatch.chdir(tmp_path)  # nothing is there, so that all is planned
    monkeypatch.syspath_prepend(str(ROOT / "workflows"))  # of recipes that read another one
    if arguments[:1] == ["sweep"]:
        asked = [*arguments, "--plan"]
    else:
        asked = ["plan", *(arguments[1:] if arguments[:1] == ["run"] else arguments)]
    app = application(workflow(ROOT / script), Path(script).stem)
    assert guarded(lambda: app(args=asked, standalone_mode=False)) == 0, capsys.readouterr().err


def workflow(path: Path):
    """The recipe at `path`."""
    spec = importlib.util.spec_from_file_location(f"claims_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.workflow
