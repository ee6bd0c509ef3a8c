"""`docs/python.md` as it stands, from top to bottom, in one process of its own; its stated values are those
found."""

import ast
import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
STATED = re.compile(r"^(.*?)\s*# -> (.*)$")


def program(blocks: list[str]) -> str:
    """The blocks as one program, which compares the value of `expression  # -> value` with the stated one."""
    lines = []
    for line in "\n".join(blocks).splitlines():
        stated = STATED.match(line)
        if stated is None:
            lines.append(line)
        else:
            ast.parse(stated[1], mode="eval")
            lines.append(f"expect(({stated[1]}), {stated[2]!r}, {line!r})")
    return "\n".join([EXPECT, *lines, "print(sorted({'ray'} & set(sys.modules)))"])


EXPECT = """import sys
def expect(found, stated, line):
    assert repr(found) == stated, f"{line}: found {found!r}"
"""


def test_every_line_of_the_page_runs_without_ray_and_gives_what_it_states(folder):
    assert len(BLOCKS) >= 8 and PAGE.count("# -> ") > 15
    found = subprocess.run(
        [sys.executable, "-c", program(BLOCKS)], cwd=folder, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == "[]"
    for name in ("grid", "training", "calibration", "guided"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
