"""Read safetensors files: tensors by name, and the metadata as settings. The format cannot hold code."""

from __future__ import annotations

import json
import logging

import safetensors
import safetensors.torch
from torch import nn

from dgflow.weights.checkpoints import fitting
from dgflow.weights.weight_file import AGAIN, File, WeightFile, as_path, called

_log = logging.getLogger(__name__)


def read_safetensors(
    file: File, *, source: str | None = None, network: nn.Module | None = None, key: str | None = None
) -> WeightFile:
    """Read the tensors, and the metadata as settings. With a `network`, only the tensors that fit the network
    are returned, by `checkpoints.fitting`.

    Raises ValueError for another format or a damaged file, and as `fitting` does.
    """
    found = _content(file, source)
    if network is None:
        return found
    tensors, note = fitting(found.tensors, network, called(file, source), key)
    if note:
        _log.warning("%s: %s", called(file, source), note)
    return WeightFile(tensors, found.settings)


def _content(file: File, source: str | None) -> WeightFile:
    try:
        if isinstance(file, bytes):
            tensors = safetensors.torch.load(file)
            header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
            return WeightFile(tensors, dict(header.get("__metadata__") or {}))
        with safetensors.safe_open(as_path(file), framework="pt") as opened:  # maps large files
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return WeightFile(tensors, dict(opened.metadata() or {}))
    # RuntimeError is raised for shapes beyond int64.
    except (safetensors.SafetensorError, KeyError, UnicodeDecodeError, TypeError, RuntimeError) as error:
        line = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(
            f"{called(file, source)}: expected a whole safetensors file, found another or a damaged one "
            f"({line}): {AGAIN}"
        ) from error
