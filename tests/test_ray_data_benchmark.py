"""`benchmarks/ray_data.py` at toy size: a killed worker loses no shard, whoever runs the workers."""

import argparse
import sys
from pathlib import Path

import pytest

# Behind the tests: both folders have a `metrics`.
sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import ray_data  # pyright: ignore[reportMissingImports]

TOY = argparse.Namespace(shards=12, many=100, workers=2, wait=0.1, seconds=60.0)


@pytest.mark.slow
@pytest.mark.parametrize("system", ray_data.SYSTEMS)
def test_a_killed_worker_loses_no_shard(system):
    found = ray_data.measured("killed", system, TOY, 300.0)
    assert "problem" not in found, found["problem"]
    assert (found["committed"], found["without_receipt"]) == (12, 0) and found["built_again"] <= 1
