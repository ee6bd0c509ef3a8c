"""Map the names of Inception's tensors in published files to one form: 472 names in one order, float32,
kernels as OIHW, as in torch-fidelity's `.pth`.

TensorFlow's graph names the convolutions by scope (`mixed_6/tower/conv_1`), PyTorch's ports by branch
(`Mixed_6d.branch7x7_2`), and NVIDIA's file by scope again, partly joined with underscores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dgflow.weights.torch_file import read_state_dict
from dgflow.weights.weight_file import File, WeightFile, called, some

# Maximum number of values in a file's tensors, ten times the network's. Views into one storage can claim far
# more values than the file has.
_MOST = 250_000_000


def _row(scope: str, branch: str, count: int) -> dict[str, str]:
    return {f"{scope}/conv{f'_{i}' if i else ''}": f"{branch}_{i + 1}" for i in range(count)}


_FIRST, _POOLED = {"conv": "branch1x1"}, {"tower_2/conv": "branch_pool"}
_A = {**_FIRST, **_row("tower", "branch5x5", 2), **_row("tower_1", "branch3x3dbl", 3), **_POOLED}
_B = {"conv": "branch3x3", **_row("tower", "branch3x3dbl", 3)}
_C = {**_FIRST, **_row("tower", "branch7x7", 3), **_row("tower_1", "branch7x7dbl", 5), **_POOLED}
_D = {**_row("tower", "branch3x3", 2), **_row("tower_1", "branch7x7x3", 4)}
_E = {
    **_FIRST,
    **_row("tower", "branch3x3", 1),
    "tower/mixed/conv": "branch3x3_2a",
    "tower/mixed/conv_1": "branch3x3_2b",
    **_row("tower_1", "branch3x3dbl", 2),
    "tower_1/mixed/conv": "branch3x3dbl_3a",
    "tower_1/mixed/conv_1": "branch3x3dbl_3b",
    **_POOLED,
}
_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
_BLOCKS = zip(
    ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"),
    (_A, _A, _A, _B, _C, _C, _C, _C, _D, _E, _E),
    strict=True,
)

SCOPES: dict[str, str] = {
    **{f"conv{f'_{i}' if i else ''}": f"Conv2d_{place}" for i, place in enumerate(_STEM)},
    **{
        f"mixed{f'_{i}' if i else ''}/{scope}": f"Mixed_{place}.{branch}"
        for i, (place, block) in enumerate(_BLOCKS)
        for scope, branch in block.items()
    },
}
"""The scope of each of the 94 convolutions in TensorFlow's graph -> its module in PyTorch's ports, in the
order of the latter."""

# A module's tensor: its rank, and its names in files. By this table, `weight` under a batch norm is gamma and
# not the kernel.
_PARTS: dict[str, tuple[int, frozenset[str]]] = {
    "conv.weight": (4, frozenset({"weight", "conv2d_params", "kernel"})),
    "bn.weight": (1, frozenset({"weight", "gamma", "scale"})),
    "bn.bias": (1, frozenset({"bias", "beta"})),
    "bn.running_mean": (1, frozenset({"mean", "moving_mean", "running_mean"})),
    "bn.running_var": (1, frozenset({"var", "variance", "moving_variance", "running_var"})),
}
_RANKS = {
    **{f"{module}.{part}": rank for module in SCOPES.values() for part, (rank, _) in _PARTS.items()},
    "fc.weight": 2,
    "fc.bias": 1,
}
NAMES: tuple[str, ...] = tuple(_RANKS)
"""The state dict's names, without `num_batches_tracked`."""

# Dot or underscore: NVIDIA's files have both, `layers.mixed_8.tower.conv_1` and
# `layers.mixed_9.tower_1_conv_1`.
_MODULES = {scope.replace("/", "_"): module for scope, module in SCOPES.items()}
_INNER = frozenset({"conv", "bn", "batchnorm"})  # submodules of a convolution that hold its tensors


def read_inception_pth(file: File, *, source: str | None = None) -> WeightFile:
    """Read the flat state dict of torch-fidelity and pytorch-fid.

    Raises ValueError for another network, and as `read_state_dict`.
    """
    name = called(file, source)
    tensors = read_state_dict(file, source=name).tensors
    return checked(
        {key: tensor for key, tensor in tensors.items() if not key.endswith(".num_batches_tracked")}, name
    )


def checked(found: Mapping[str, Tensor], source: str) -> WeightFile:
    """Return `found` in the order of NAMES, as float32.

    Raises:
        ValueError: names are missing or unexpected, a rank differs, or float32 cannot hold a number.
    """
    missing, others = (
        [name for name in NAMES if name not in found],
        [name for name in found if name not in _RANKS],
    )
    if missing or others:
        raise ValueError(
            f"{source}: expected the {len(NAMES)} tensors of Inception 2015-12-05, found {len(found)}; "
            f"missing: {some(missing)}; unexpected: {some(others)}: name the format that this file has, or "
            "get Inception's from its publisher's page"
        )
    if (
        numbers := sum(math.prod(tensor.shape) for tensor in found.values())
    ) > _MOST:  # not numel(), which can overflow
        raise ValueError(
            f"{source}: expected at most {_MOST} numbers, found tensors of {numbers}: this is another "
            "network, or damaged"
        )
    for name, rank in _RANKS.items():
        tensor = found[name]
        if tensor.ndim != rank or tensor.dtype not in (torch.float32, torch.float16):
            form = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)[:8]}"
            raise ValueError(
                f"{source}: expected {name!r} as float32 of {rank} dimensions, found {form}: this is "
                "another network"
            )
    return WeightFile({name: found[name].float() for name in NAMES}, {})


def from_modules(found: Mapping[str, Tensor], source: str) -> WeightFile:
    """Rename the tensors of a port that uses TensorFlow's scopes, such as `layers.mixed_6.conv.beta`. gamma
    may be missing.

    The output layer may have any name. It is the module with a matrix, and with a vector as long as one side
    of the matrix.

    Raises:
        ValueError: a tensor has no place in the network, two tensors have the same place, or as `checked`.
    """
    tensors: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    for name, tensor in found.items():
        if name.endswith("num_batches_tracked"):
            continue
        place = _place(name, tensor)
        if place in tensors:
            raise ValueError(
                f"{source}: expected one tensor for {place!r}, found {name!r} beside another: "
                f"{_listed(found)}"
            )
        if place is None:
            others[name] = tensor
        else:
            tensors[place] = tensor
    tensors.update(_output(others, source))
    if not any(
        name.endswith(".bn.weight") for name in tensors
    ):  # the ported graph does not scale after normalising
        betas = {name: beta for name, beta in tensors.items() if name.endswith(".bn.bias")}
        tensors.update(
            {
                name.replace(".bias", ".weight"): torch.ones(()).expand(beta.shape)
                for name, beta in betas.items()
            }
        )
    return checked(tensors, source)


def _place(name: str, tensor: Tensor) -> str | None:
    """The tensor's name in PyTorch's ports; None if it does not belong to a convolution."""
    path, _, leaf = name.removeprefix("layers.").rpartition(".")
    outer, _, inner = path.rpartition(".")
    module = _MODULES.get(path.replace(".", "_")) or (
        _MODULES.get(outer.replace(".", "_")) if inner in _INNER else None
    )
    part = next(
        (part for part, (rank, names) in _PARTS.items() if leaf in names and tensor.ndim == rank), None
    )
    return f"{module}.{part}" if module and part else None


def _output(others: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    by_rank = {tensor.ndim: (name.rpartition(".")[0], tensor) for name, tensor in others.items()}
    if len(others) != 2 or by_rank.keys() != {1, 2} or by_rank[1][0] != by_rank[2][0]:
        raise ValueError(
            f"{source}: expected, beside 94 convolutions named by TensorFlow's scopes, one output layer with "
            f"weight and bias, found {_listed(others)}: this is another network, or an unknown port"
        )
    weight, bias = by_rank[2][1], by_rank[1][1]
    sides = [axis for axis in (0, 1) if weight.shape[axis] == len(bias)]
    if len(sides) != 1:
        raise ValueError(
            f"{source}: expected a bias as long as one side of the output layer, found {_listed(others)}"
        )
    return {"fc.weight": weight if sides == [0] else weight.t(), "fc.bias": bias}


def _listed(tensors: Mapping[str, Tensor]) -> str:
    return some([f"{name[:80]} {list(tensor.shape)[:8]}" for name, tensor in tensors.items()])
