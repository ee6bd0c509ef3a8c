"""`make gpu` at toy size on the CPU: each part runs, finds no wrong number, and ends within its time."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

# Behind the tests: both folders have a `metrics`.
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import gpu  # pyright: ignore[reportMissingImports]
import gpu_part  # pyright: ignore[reportMissingImports]
import gpu_parts  # pyright: ignore[reportMissingImports]

# The features of Inception and the process group of a training have tests of their own.
FAST = [name for name in gpu.SHARES if name not in ("features", "training")]


def test_every_part_has_a_share_of_the_time():
    assert gpu.SHARES.keys() == gpu_parts.PARTS.keys()
    assert sum(gpu.SHARES.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", FAST)
def test_a_part_finds_rows_and_no_wrong_number(name, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_part, "BEGAN", time.monotonic())
    file = tmp_path / "rows.jsonl"
    gpu_parts.PARTS[name](gpu_part.Part(torch.device("cpu"), True, 60.0, file))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows and not [row for row in rows if row.get("wrong")]


def test_a_part_runs_in_a_process_of_its_own_which_is_stopped_where_it_does_not_end():
    found = gpu.part("noise", 60.0, toy=True)
    assert [row["what"] for row in found["rows"]] == ["uniform", "standard_normal", "integers"]
    assert found["problem"] == ""
    stopped = gpu.part("noise", -13.3, toy=True)  # 0.05 s: not even torch is imported by then
    assert stopped["problem"].startswith("stopped after 0") and stopped["rows"] == []
