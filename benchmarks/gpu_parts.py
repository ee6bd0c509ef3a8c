"""The parts of `gpu.py`: functions that write rows as they measure them. A row has a title `what`, figures,
and `wrong`: the reason if a figure differs from its required value.

    python benchmarks/gpu_parts.py PART FILE SECONDS [--toy]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import gpu_checks
import gpu_speed
import torch
from gpu_part import Part

PARTS: dict[str, Callable[[Part], None]] = {
    "machine": gpu_checks.machine,
    "noise": gpu_checks.noise_bits,
    "goldens": gpu_checks.goldens,
    "training": gpu_checks.training,
    "memory": gpu_checks.memory,
    "compiled": gpu_speed.compiled,
    "speed": gpu_speed.speed,
    "features": gpu_speed.features,
    "rows": gpu_speed.rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("file", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()
    cuda = torch.cuda.is_available() and not options.toy
    device = torch.device("cuda" if cuda else "cpu")
    PARTS[options.part](Part(device, not cuda, options.seconds, options.file))


if __name__ == "__main__":
    main()
