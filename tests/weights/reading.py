"""Weight files by the name of their format."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import torch

from dgflow.files.locations import LocalLocation
from dgflow.files.npz import NpzFile
from dgflow.networks.dit.file import read_dit
from dgflow.networks.edm.file import read_edm_pickle
from dgflow.networks.inception.graph_file import read_inception_graph
from dgflow.networks.inception.names import read_inception_pth
from dgflow.networks.inception.torchscript_file import read_inception_pickle, read_inception_torchscript
from dgflow.networks.lsgm.file import read_lsgm
from dgflow.networks.ncsnpp.file import read_soft_truncation
from dgflow.weights.safetensors_file import read_safetensors
from dgflow.weights.torch_file import read_state_dict
from dgflow.weights.weight_file import AGAIN, File, WeightFile, as_path, called


class InMemory:
    """A file's bytes as what can be opened."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self) -> BinaryIO:
        return io.BytesIO(self._data)


def read_npz(file: File, *, source: str | None = None) -> WeightFile:
    """The arrays as tensors of the same dtype. Raises ValueError for a damaged file, or not of numbers."""
    name = called(file, source)
    npz = NpzFile(name, InMemory(file) if isinstance(file, bytes) else LocalLocation(str(as_path(file))))
    try:
        return WeightFile({name: torch.from_numpy(npz.array(name)) for name in npz.names}, {})
    except Exception as error:  # a MemoryError, too: an array's header may claim any size
        found = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"{name}: expected a whole .npz of numbers, found another file or a damaged one ({found}): "
            f"{AGAIN}"
        ) from error


READERS: dict[str, Any] = {
    "safetensors": read_safetensors,
    "state_dict": read_state_dict,
    "dit": read_dit,
    "edm_pickle": read_edm_pickle,
    "inception_pth": read_inception_pth,
    "inception_graph": read_inception_graph,
    "inception_torchscript": read_inception_torchscript,
    "inception_pickle": read_inception_pickle,
    "soft_truncation": read_soft_truncation,
    "lsgm": read_lsgm,
    "npz": read_npz,
}


def read_weights(file: File, format: str, **options: Any) -> WeightFile:
    """The content of a file; `options` are the reader's."""
    return READERS[format](file, **options)
