"""Weight files by the name of their format; what the file is made of is never run.

Every reader follows the published description of its format and is tested on files made to that description.
None has met the file that its publisher offers, because those could not be downloaded where this was written:

| format            | files                                                        | has met an original |
|-------------------|--------------------------------------------------------------|---------------------|
| `safetensors`     | the hub's, and dgflow's own                                  | no (dgflow's own: yes) |
| `state_dict`      | ADM, DG's classifiers and discriminators                     | no                  |
| `dit`             | DiT, released and training files                             | no                  |
| `soft_truncation` | Soft Truncation                                              | no                  |
| `lsgm`            | LSGM: prior and NVAE                                         | no                  |
| `edm_pickle`      | EDM                                                          | no                  |
| `inception_pth`   | Inception of torch-fidelity and pytorch-fid                  | no                  |
| `inception_graph` | Inception of OpenAI's evaluator, TensorFlow's frozen graph   | no                  |
| `inception_torchscript` | Inception of StyleGAN2-ADA and clean-fid               | no                  |
| `inception_pickle` | Inception of EDM's evaluator                                | no                  |
| `npz`             | references for FID: EDM's, ADM's                             | no                  |

The four of Inception give the same tensors by the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dgflow.networks.dit.file import read_dit
from dgflow.networks.edm.pickle_file import read_edm_pickle
from dgflow.networks.inception.graph_file import read_inception_graph
from dgflow.networks.inception.names import read_inception_pth
from dgflow.networks.inception.torchscript_file import read_inception_pickle, read_inception_torchscript
from dgflow.networks.lsgm.file import read_lsgm
from dgflow.networks.ncsnpp.file import read_soft_truncation
from dgflow.weights.entry import Format
from dgflow.weights.npz_file import read_npz
from dgflow.weights.safetensors_file import read_safetensors
from dgflow.weights.torch_file import read_state_dict
from dgflow.weights.weight_file import File, WeightFile, called

_SIMPLE = {
    "safetensors": read_safetensors,
    "state_dict": read_state_dict,
    "dit": read_dit,
    "edm_pickle": read_edm_pickle,
    "inception_pth": read_inception_pth,
    "inception_graph": read_inception_graph,
    "inception_torchscript": read_inception_torchscript,
    "inception_pickle": read_inception_pickle,
    "npz": read_npz,
}


def read_weights(
    file: File,
    format: Format,
    *,
    source: str | None = None,
    ema_names: Sequence[str] | None = None,
    part: Literal["prior", "vae"] | None = None,
) -> WeightFile:
    """The weights in a file, and the settings that it has beside them.

    Args:
        file: bytes or a path; a path is mapped where the format allows it, and has to stay as it is while the
            tensors are used.
        source: what to call the file in an error, by default its path.
        ema_names: for `soft_truncation` and `lsgm`, the network's `ema_names()`: the parameters in the order
            of the file's averages.
        part: for `lsgm`, which of the two networks.

    Raises:
        ValueError: an unknown format, an argument missing; or as the format's reader: refused, another
            format, damaged or cut short.
        FileNotFoundError: nothing is at the path.
    """
    if format in _SIMPLE:
        return _SIMPLE[format](file, source=source)
    if format == "soft_truncation":
        if ema_names is None:
            raise ValueError(
                f"{called(file, source)}: the averages have no names in this format: give ema_names, the "
                "network's own"
            )
        return read_soft_truncation(file, ema_names, source=source)
    if format == "lsgm":
        if part not in ("prior", "vae"):
            raise ValueError(
                f"{called(file, source)}: the file holds two networks: give part='prior' or part='vae', "
                f"found {part!r}"
            )
        return read_lsgm(file, part, ema_names, source=source)
    formats = ", ".join([*_SIMPLE, "soft_truncation", "lsgm"])
    raise ValueError(f"{called(file, source)}: expected one of the formats {formats}, found {format!r}")
