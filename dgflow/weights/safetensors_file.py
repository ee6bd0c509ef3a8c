"""Safetensors files: names and tensors, and texts as settings. The format cannot hold code."""

from __future__ import annotations

import json

import safetensors
import safetensors.torch

from dgflow.weights.weight_file import AGAIN, File, WeightFile, as_path, called


def read_safetensors(file: File, *, source: str | None = None) -> WeightFile:
    """The tensors, and the texts of the file's own metadata as settings.

    Raises:
        ValueError: something else, damaged or cut short.
    """
    try:
        if isinstance(file, bytes):
            tensors = safetensors.torch.load(file)
            header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
            return WeightFile(tensors, dict(header.get("__metadata__") or {}))
        with safetensors.safe_open(as_path(file), framework="pt") as opened:  # maps large files
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return WeightFile(tensors, dict(opened.metadata() or {}))
    except (
        safetensors.SafetensorError,
        KeyError,
        UnicodeDecodeError,
        TypeError,
        RuntimeError,
    ) as error:  # last: shapes beyond int64
        found = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"{called(file, source)}: expected a whole safetensors file, found another or a damaged one "
            f"({found}): {AGAIN}"
        ) from error
