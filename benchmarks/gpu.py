"""All measurements for a first hour on a GPU, as one command: `make gpu`, or

    python benchmarks/gpu.py [--json FILE] [--parts NAME ...] [--minutes 8] [--toy]

It needs torch, numpy, pyarrow, pydantic and safetensors, and not Ray. Each part runs in its own process with
its own time limit; the results of a part that is stopped are kept. The table is printed as the parts end, and
`--json` has the same figures. Without a GPU, or with `--toy`, the parts run on the CPU at toy size, which
only checks that they run. Exits with 1 if a part failed or found a wrong number.

`gpu_checks.py` and `gpu_speed.py` describe each part.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
SHARES = {
    "machine": 0.03,
    "noise": 0.04,
    "goldens": 0.15,
    "training": 0.12,
    "memory": 0.08,
    "compiled": 0.16,
    "speed": 0.32,
    "features": 0.06,
    "rows": 0.04,
}
"""Each part's share of the total time limit."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument(
        "--toy", action="store_true", help="run on the CPU at toy size, even if there is a GPU"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, after each part")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    for name in options.parts:
        seconds = 60 * options.minutes * SHARES[name]
        began = time.monotonic()
        found[name] = part(name, seconds, toy=options.toy)
        found[name]["seconds"] = round(time.monotonic() - began, 1)
        show(name, found[name])
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
    if any(each["problem"] for each in found.values()):
        raise SystemExit(1)


def part(name: str, seconds: float, *, toy: bool) -> dict[str, Any]:
    """Returns the rows of a part, and a description of its problem, "" for none. A part should end within its
    time limit; it is stopped 20 s after 1.5 times the limit."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        command = [
            sys.executable,
            str(Path(__file__).with_name("gpu_parts.py")),
            name,
            str(file),
            str(seconds),
        ]
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}"}
        try:
            ended = subprocess.run(
                [*command, *(["--toy"] if toy else [])],
                env=environment,
                timeout=1.5 * seconds + 20,
                capture_output=True,
                text=True,
            )
            problem = "" if ended.returncode == 0 else _last_line(ended.stderr)
        except subprocess.TimeoutExpired:
            problem = f"stopped after {1.5 * seconds + 20:.0f} s"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    wrong = [f"{row['what']}: {row['wrong']}" for row in rows if row.get("wrong")]
    return {"rows": rows, "problem": "; ".join([*wrong, *([problem] if problem else [])])}


def _last_line(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "ended without output"


def show(name: str, found: dict[str, Any]) -> None:
    """Prints the part as a table of rows and figures."""
    print(f"\n{name} ({found['seconds']:.0f} s)")
    for row in found["rows"]:
        figures = ", ".join(
            f"{key} {_text(value)}" for key, value in row.items() if key != "what" and value != ""
        )
        print(f"  {row['what']}: {figures}")
    if found["problem"]:
        print(f"  PROBLEM: {found['problem']}")
    sys.stdout.flush()


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
