"""Safetensors files: tensors by name, and texts as settings. The format cannot hold code."""

from __future__ import annotations

import json

import safetensors
import safetensors.torch

from dgflow.weights.weight_file import AGAIN, File, WeightFile, as_path, called


def read_safetensors(file: File, *, source: str | None = None) -> WeightFile:
    """The tensors, and the file's metadata as settings. Raises ValueError for another or a damaged file."""
    try:
        if isinstance(file, bytes):
            tensors = safetensors.torch.load(file)
            header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
            return WeightFile(tensors, dict(header.get("__metadata__") or {}))
        with safetensors.safe_open(as_path(file), framework="pt") as opened:  # maps large files
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return WeightFile(tensors, dict(opened.metadata() or {}))
    # The last: shapes beyond int64.
    except (safetensors.SafetensorError, KeyError, UnicodeDecodeError, TypeError, RuntimeError) as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"{called(file, source)}: expected a whole safetensors file, found another or a damaged one "
            f"({line}): {AGAIN}"
        ) from error
