"""Inception's published files as they are described, with any weights: state dict, TensorFlow's frozen graph,
TorchScript and pickle.

The graph is written byte by byte, without the library and the declarations that the reader has. The names are
those of the whole network, written out here by block; the tensors may be thin.
"""

import io
import pickle
import struct
import sys
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from dgflow.networks.edm.file_writer import SOURCE, Persistent

# Block by block: the scope in TensorFlow's graph, the module in PyTorch's ports, height and width of the
# kernel.
_A = "conv branch1x1 1 1, tower/conv branch5x5_1 1 1, tower/conv_1 branch5x5_2 5 5, "
_A += "tower_1/conv branch3x3dbl_1 1 1, "
_A += "tower_1/conv_1 branch3x3dbl_2 3 3, tower_1/conv_2 branch3x3dbl_3 3 3, tower_2/conv branch_pool 1 1"
_B = "conv branch3x3 3 3, tower/conv branch3x3dbl_1 1 1, tower/conv_1 branch3x3dbl_2 3 3, "
_B += "tower/conv_2 branch3x3dbl_3 3 3"
_C = "conv branch1x1 1 1, tower/conv branch7x7_1 1 1, tower/conv_1 branch7x7_2 1 7, "
_C += "tower/conv_2 branch7x7_3 7 1, "
_C += (
    "tower_1/conv branch7x7dbl_1 1 1, tower_1/conv_1 branch7x7dbl_2 7 1, tower_1/conv_2 branch7x7dbl_3 1 7, "
)
_C += "tower_1/conv_3 branch7x7dbl_4 7 1, tower_1/conv_4 branch7x7dbl_5 1 7, tower_2/conv branch_pool 1 1"
_D = "tower/conv branch3x3_1 1 1, tower/conv_1 branch3x3_2 3 3, "
_D += "tower_1/conv branch7x7x3_1 1 1, tower_1/conv_1 branch7x7x3_2 1 7, "
_D += "tower_1/conv_2 branch7x7x3_3 7 1, tower_1/conv_3 branch7x7x3_4 3 3"
_E = "conv branch1x1 1 1, tower/conv branch3x3_1 1 1, tower/mixed/conv branch3x3_2a 1 3, "
_E += "tower/mixed/conv_1 branch3x3_2b 3 1, "
_E += "tower_1/conv branch3x3dbl_1 1 1, tower_1/conv_1 branch3x3dbl_2 3 3, "
_E += "tower_1/mixed/conv branch3x3dbl_3a 1 3, "
_E += "tower_1/mixed/conv_1 branch3x3dbl_3b 3 1, tower_2/conv branch_pool 1 1"
_STEM = "conv Conv2d_1a_3x3 3 3, conv_1 Conv2d_2a_3x3 3 3, conv_2 Conv2d_2b_3x3 3 3, "
_STEM += "conv_3 Conv2d_3b_1x1 1 1, conv_4 Conv2d_4a_3x3 3 3"
_BLOCKS = {
    "mixed": ("Mixed_5b", _A),
    "mixed_1": ("Mixed_5c", _A),
    "mixed_2": ("Mixed_5d", _A),
    "mixed_3": ("Mixed_6a", _B),
    "mixed_4": ("Mixed_6b", _C),
    "mixed_5": ("Mixed_6c", _C),
    "mixed_6": ("Mixed_6d", _C),
    "mixed_7": ("Mixed_6e", _C),
    "mixed_8": ("Mixed_7a", _D),
    "mixed_9": ("Mixed_7b", _E),
    "mixed_10": ("Mixed_7c", _E),
}


def _rows() -> Iterator[tuple[str, str, int, int]]:
    for row in _STEM.split(", "):
        scope, module, height, width = row.split()
        yield scope, module, int(height), int(width)
    for scope, (module, rows) in _BLOCKS.items():
        for row in rows.split(", "):
            inner, branch, height, width = row.split()
            yield f"{scope}/{inner}", f"{module}.{branch}", int(height), int(width)


CONVOLUTIONS = list(_rows())
"""(scope, module, height, width) of each of the 94."""
PARTS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
"""The parts of a batch norm: the names in PyTorch and in TensorFlow."""


def thin_weights(seed: int = 0, scaled: bool = True) -> dict[str, Tensor]:
    """A state dict with two channels in and three out everywhere, in the order of torch-fidelity's; gamma is
    ones where not `scaled`."""
    made = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for _, module, height, width in CONVOLUTIONS:
        state[f"{module}.conv.weight"] = torch.randn(3, 2, height, width, generator=made)
        for part in PARTS:
            state[f"{module}.bn.{part}"] = torch.randn(3, generator=made)
        if not scaled:
            state[f"{module}.bn.weight"] = torch.ones(3)
    return {
        **state,
        "fc.weight": torch.randn(5, 4, generator=made),
        "fc.bias": torch.randn(5, generator=made),
    }


# TensorFlow's frozen graph: protocol buffers by hand. A field is number and wire type in one varint, then its
# value.
def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def real(field: int, value: float) -> bytes:
    return varint(field << 3 | 5) + struct.pack("<f", value)


def attribute(key: str, value: bytes) -> bytes:
    """An entry of NodeDef.attr, field 5: a map from string to AttrValue."""
    return block(5, block(1, key.encode()) + block(2, value))


def node(name: str, op: str, inputs: tuple[str, ...] = (), attributes: bytes = b"") -> bytes:
    """GraphDef.node, field 1."""
    return block(
        1,
        block(1, name.encode())
        + block(2, op.encode())
        + b"".join(block(3, i.encode()) for i in inputs)
        + attributes,
    )


def tensor_proto(values: Tensor | bytes, shape: tuple[int, ...], form: str = "raw") -> bytes:
    """A TensorProto: dtype (1), tensor_shape (2) of dims (2) with a size (1), and numbers: raw (4), as floats
    (5) or as halves (13)."""
    sides = block(2, b"".join(block(2, number(1, side & 2**64 - 1)) for side in shape))
    if isinstance(values, bytes):
        return number(1, 1) + sides + block(4, values)
    flat = values.contiguous().flatten()
    if form == "raw":
        return number(1, 1) + sides + block(4, flat.numpy().tobytes())
    if form == "floats":
        return number(1, 1) + sides + block(5, flat.numpy().tobytes())
    if form == "unpacked":
        return number(1, 1) + sides + b"".join(real(5, float(value)) for value in flat)
    bits = flat.half().numpy().view("uint16")
    return number(1, 19) + sides + block(13, b"".join(varint(int(value)) for value in bits))


def constant(name: str, proto: bytes) -> bytes:
    return node(name, "Const", (), attribute("dtype", number(6, 1)) + attribute("value", block(8, proto)))


def graph_nodes(
    state: dict[str, Tensor], *, scales: bool | None = True, epsilon: float | None = 1e-3, form: str = "raw"
) -> dict[str, bytes]:
    """The nodes of the frozen graph by name; `scales` and `epsilon` are attributes of every batch norm, None
    to leave one out."""
    nodes = {"ExpandDims/dim": constant("ExpandDims/dim", number(1, 3) + block(2, b"") + number(7, 0))}

    def add(name: str, tensor: Tensor) -> None:
        nodes[name] = constant(name, tensor_proto(tensor, tuple(tensor.shape), form))

    for scope, module, _, _ in CONVOLUTIONS:
        add(f"{scope}/conv2d_params", state[f"{module}.conv.weight"].permute(2, 3, 1, 0))
        for ours, theirs in PARTS.items():
            add(f"{scope}/batchnorm/{theirs}", state[f"{module}.bn.{ours}"])
        settings = b"" if scales is None else attribute("scale_after_normalization", number(5, int(scales)))
        settings += b"" if epsilon is None else attribute("variance_epsilon", real(4, epsilon))
        inputs = (
            f"{scope}/Conv2D",
            *(f"{scope}/batchnorm/{part}" for part in ("moving_mean", "moving_variance", "beta", "gamma")),
        )
        nodes[f"{scope}/batchnorm"] = node(
            f"{scope}/batchnorm", "BatchNormWithGlobalNormalization", inputs, settings
        )
        nodes[scope] = node(scope, "Relu", (f"{scope}/batchnorm",))
    add("softmax/weights", state["fc.weight"].t())
    add("softmax/biases", state["fc.bias"])
    return nodes


def graph(state: dict[str, Tensor], **options: Any) -> bytes:
    return b"".join(graph_nodes(state, **options).values())


# NVIDIA's port: modules named by scope, with dots in the blocks up to mixed_8 and with underscores in mixed_9
# and mixed_10.
def _dotted(scope: str) -> str:
    block_name, _, rest = scope.partition("/")
    return f"{block_name}.{rest.replace('/', '_' if block_name in ('mixed_9', 'mixed_10') else '.')}".rstrip(
        "."
    )


class Convolution(nn.Module):
    def __init__(self, weight: Tensor, beta: Tensor, mean: Tensor, var: Tensor) -> None:
        super().__init__()
        self.stride = 1
        self.weight, self.beta = nn.Parameter(weight), nn.Parameter(beta)
        self.mean, self.var = nn.Parameter(mean), nn.Parameter(var)

    def forward(self, x: Tensor) -> Tensor:
        return (
            torch.nn.functional.conv2d(x, self.weight, stride=self.stride) * self.var[0]
            + self.beta[0]
            - self.mean[0]
        )


class WithNorm(nn.Module):
    """Another way to write the same, with modules inside."""

    def __init__(self, weight: Tensor, beta: Tensor, mean: Tensor, var: Tensor, gamma: Tensor) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1, bias=False)
        self.conv.weight = nn.Parameter(weight)
        self.bn = nn.BatchNorm2d(3, eps=1e-3)
        self.bn.load_state_dict(
            {
                "weight": gamma,
                "bias": beta,
                "running_mean": mean,
                "running_var": var,
                "num_batches_tracked": torch.tensor(0),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


def port(state: dict[str, Tensor], *, with_norm: bool = False) -> nn.Module:
    """The port's modules, without its wiring."""
    root = nn.Sequential()
    root.add_module("layers", nn.Sequential())
    for scope, module, _, _ in CONVOLUTIONS:
        weight, (gamma, beta, mean, var) = (
            state[f"{module}.conv.weight"],
            (state[f"{module}.bn.{part}"] for part in PARTS),
        )
        made = WithNorm(weight, beta, mean, var, gamma) if with_norm else Convolution(weight, beta, mean, var)
        at = root.get_submodule("layers")
        *path, leaf = _dotted(scope).split(".")
        for name in path:
            if name not in at._modules:
                at.add_module(name, nn.Sequential())
            at = at.get_submodule(name)
        at.add_module(leaf, made)
    output = nn.Linear(state["fc.weight"].shape[1], state["fc.weight"].shape[0])
    output.load_state_dict({"weight": state["fc.weight"], "bias": state["fc.bias"]})
    root.add_module("output", output)
    return root


def torchscript(network: nn.Module) -> bytes:
    """The archive that torch.jit itself writes for `network`."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network.eval()), buffer)
    return buffer.getvalue()


def pickled(network: nn.Module) -> bytes:
    """The port as a pickle: its own modules persistent objects with source, torch's layers as they are."""

    def _reconstruct_persistent_obj(meta: Any) -> Any:
        raise AssertionError("called while writing")

    _reconstruct_persistent_obj.__module__, _reconstruct_persistent_obj.__qualname__ = (
        "torch_utils.persistence",
        "_reconstruct_persistent_obj",
    )
    modules = {name: types.ModuleType(name) for name in ("torch_utils", "torch_utils.persistence")}
    setattr(modules["torch_utils.persistence"], "_reconstruct_persistent_obj", _reconstruct_persistent_obj)  # noqa: B010
    with mock.patch.dict(sys.modules, modules):
        root = _object(
            {
                **network.__dict__,
                "_modules": {name: _plain(child) for name, child in network.named_children()},
            },
            "InceptionV3",
        )
        return pickle.dumps(root)


def _object(state: dict[str, Any], name: str) -> Persistent:
    return Persistent(
        {"type": "class", "version": 6, "module_src": SOURCE, "class_name": name, "state": state}
    )


def _plain(module: nn.Module) -> Any:
    if isinstance(module, nn.Sequential | nn.Linear):
        made = module.__class__.__new__(module.__class__)
        made.__dict__.update(
            module.__dict__, _modules={name: _plain(child) for name, child in module.named_children()}
        )
        return made
    return _object(module.__dict__, "Conv2dLayer")
