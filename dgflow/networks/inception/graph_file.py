"""OpenAI's `classify_image_graph_def.pb`, a frozen TensorFlow graph, read as data: no graph is built or run.

Only constants are read, and two attributes of the batch norms that consume them. The messages are declared
below, with the field numbers of TensorFlow's published `.proto` files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from torch import Tensor

from dgflow.networks.inception.names import SCOPES, checked
from dgflow.weights.weight_file import AGAIN, File, WeightFile, as_path, called, short, some

# Name, number, type (or the name of a message), repeated. The enum DataType and the oneof in AttrValue are
# plain fields here, and the map of attributes is a list of its entries; the wire format is the same.
_FIELDS: dict[str, list[tuple[str, int, str, bool]]] = {
    "Dim": [("size", 1, "int64", False)],
    "Shape": [("dim", 2, "Dim", True), ("unknown_rank", 3, "bool", False)],
    "Tensor": [
        ("dtype", 1, "int32", False),
        ("tensor_shape", 2, "Shape", False),
        ("tensor_content", 4, "bytes", False),
        ("float_val", 5, "float", True),
        ("half_val", 13, "int32", True),
    ],
    "Value": [("f", 4, "float", False), ("b", 5, "bool", False), ("tensor", 8, "Tensor", False)],
    "Attr": [("key", 1, "string", False), ("value", 2, "Value", False)],
    "Node": [
        ("name", 1, "string", False),
        ("op", 2, "string", False),
        ("input", 3, "string", True),
        ("attr", 5, "Attr", True),
    ],
    "Graph": [("node", 1, "Node", True)],
}
_DTYPES = {1: torch.float32, 19: torch.float16}  # DT_FLOAT, DT_HALF
_SCALING = "BatchNormWithGlobalNormalization"  # inputs: x, mean, variance, beta, gamma
_EPSILON = 1e-3
_PARTS = {
    "conv2d_params": "conv.weight",
    "batchnorm/gamma": "bn.weight",
    "batchnorm/beta": "bn.bias",
    "batchnorm/moving_mean": "bn.running_mean",
    "batchnorm/moving_variance": "bn.running_var",
}
NODES = {
    **{
        f"{scope}/{part}": f"{module}.{ours}"
        for scope, module in SCOPES.items()
        for part, ours in _PARTS.items()
    },
    "softmax/weights": "fc.weight",
    "softmax/biases": "fc.bias",
}
"""Constant of the graph -> name in PyTorch's ports."""
_PASSED = 10  # maximum number of Identity nodes between a constant and its reader; freezing leaves one


def read_inception_graph(file: File, *, source: str | None = None) -> WeightFile:
    """Read the graph's constants by the names of PyTorch's ports.

    If a batch norm does not scale after normalising, its gamma is not applied, and the weight is set to ones.

    Raises:
        ValueError: the file is another graph, damaged or truncated, a tensor's size does not match its shape,
            or a batch norm has another epsilon.
    """
    name = called(file, source)
    try:
        data = file if isinstance(file, bytes) else as_path(file).read_bytes()
        graph = message("Graph").FromString(data)
    except DecodeError as error:
        raise ValueError(
            f"{name}: expected a whole frozen TensorFlow graph, found another file or a damaged one: {AGAIN}"
        ) from error
    nodes = {node.name: node for node in graph.node}
    constants = {wanted: _constant(nodes, wanted) for wanted in NODES}
    missing = [wanted for wanted, node in constants.items() if node is None]
    used = {node.name for node in constants.values() if node is not None}
    others = [
        node.name
        for node in graph.node
        if node.op == "Const" and node.name.endswith(tuple(_PARTS)) and node.name not in used
    ]
    if missing or others or len(nodes) != len(graph.node):
        raise ValueError(
            f"{name}: expected Inception's frozen graph, its {len(NODES)} constants once each, found "
            f"{len(graph.node)} nodes; missing: {some(missing)}; unexpected: {some(others)}; "
            f"repeated names: {len(graph.node) - len(nodes)}: {AGAIN}"
        )
    unscaled = _unscaled(nodes, name)
    tensors: dict[str, Tensor] = {}
    for wanted, node in constants.items():
        assert node is not None
        ours, tensor = NODES[wanted], _tensor(node, len(data), name)
        if node.name in unscaled:
            tensor = torch.ones(()).expand(tensor.shape)
        if ours.endswith("conv.weight") and tensor.ndim == 4:
            tensor = tensor.permute(3, 2, 0, 1)  # HWIO -> OIHW
        tensors[ours] = tensor.t() if ours == "fc.weight" and tensor.ndim == 2 else tensor
    return checked(tensors, name)


@cache
def message(name: str) -> type[Any]:
    """The message class of that name, in a separate descriptor pool."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="graph.proto", package="dgflow", syntax="proto3")
    for message, fields in _FIELDS.items():
        declared = file.message_type.add(name=message)
        for field, number, kind, repeated in fields:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in _FIELDS:
                declared.field.add(
                    name=field,
                    number=number,
                    label=label,
                    type=kinds.TYPE_MESSAGE,
                    type_name=f".dgflow.{kind}",
                )
            else:
                declared.field.add(
                    name=field, number=number, label=label, type=kinds.Type.Value(f"TYPE_{kind.upper()}")
                )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"dgflow.{name}"))


def _constant(nodes: dict[str, Any], name: str) -> Any | None:
    """The Const node called `name`, or the one that the Identity node called `name` forwards; None if there
    is none.
    """
    for _ in range(_PASSED):
        node = nodes.get(name.removesuffix(":0"))
        if node is None or node.op == "Const":
            return node
        if node.op != "Identity" or not node.input:
            return None
        name = node.input[0]
    return None


def _attributes(node: Any) -> dict[str, Any]:
    return {attribute.key: attribute.value for attribute in node.attr}


def _unscaled(nodes: dict[str, Any], source: str) -> set[str]:
    """The gamma constants of batch norms that do not scale."""
    gammas = set()
    for node in nodes.values():
        if node.op != _SCALING:
            continue
        attributes = _attributes(node)
        if "variance_epsilon" in attributes and abs(attributes["variance_epsilon"].f - _EPSILON) > 1e-9:
            epsilon = attributes["variance_epsilon"].f
            raise ValueError(
                f"{source}: expected variance_epsilon {_EPSILON} at {short(node.name)}, found "
                f"{epsilon:.6g}: another network"
            )
        gamma = _constant(nodes, node.input[4]) if len(node.input) > 4 else None
        if (
            gamma is not None
            and "scale_after_normalization" in attributes
            and not attributes["scale_after_normalization"].b
        ):
            gammas.add(gamma.name)
    return gammas


def _tensor(node: Any, size: int, source: str) -> Tensor:
    """The constant as a tensor in TensorFlow's order. Its numbers are stored as raw bytes, as a list, or as
    one number for all.
    """
    value = _attributes(node).get("value", message("Value")()).tensor
    shape = [dim.size for dim in value.tensor_shape.dim[:9]]
    where = f"{source}: expected numbers at {short(node.name)}"
    if value.dtype not in _DTYPES:
        raise ValueError(
            f"{where} as float32, found TensorFlow's type {value.dtype}: this is another network"
        )
    if (
        value.tensor_shape.unknown_rank
        or len(shape) > 8
        or any(side <= 0 for side in shape)
        or (count := math.prod(shape)) > size
    ):
        raise ValueError(
            f"{where} of a shape that fits into the file, found {shape[:8]} in {size} bytes: it is damaged"
        )
    dtype = _DTYPES[value.dtype]
    if content := value.tensor_content:
        found = len(content) // dtype.itemsize if len(content) % dtype.itemsize == 0 else -1
        if found == count:
            return torch.frombuffer(bytearray(content), dtype=dtype).reshape(shape)
    else:
        numbers = (
            torch.from_numpy(np.array(value.float_val, np.float32))
            if dtype == torch.float32
            else _halves(value.half_val)
        )
        found = len(numbers)
        if found in (1, count):
            return numbers.expand(count).reshape(shape)
    raise ValueError(f"{where} of shape {shape}, found {found}: it is damaged")


def _halves(bits: Any) -> Tensor:
    """Half-precision numbers from their bits, one per integer."""
    return torch.from_numpy((np.array(bits, np.int64) & 0xFFFF).astype(np.uint16).view(np.float16))


def write_inception_graph(tensors: Mapping[str, Tensor]) -> bytes:
    """Encode tensors, by the names of PyTorch's ports, as OpenAI's frozen graph: constants, and the batch
    norms that read them.
    """
    graph = message("Graph")()
    for name, ours in NODES.items():
        tensor = tensors[ours]
        if ours.endswith("conv.weight"):
            tensor = tensor.permute(2, 3, 1, 0)  # OIHW -> HWIO
        _add_constant(graph, name, tensor.t() if ours == "fc.weight" else tensor)
    for scope in dict.fromkeys(
        name.removesuffix("/conv2d_params") for name in NODES if name.endswith("/conv2d_params")
    ):
        inputs = [f"{scope}/batchnorm/{part}" for part in ("moving_mean", "moving_variance", "beta", "gamma")]
        norm = graph.node.add(
            name=f"{scope}/batchnorm",
            op="BatchNormWithGlobalNormalization",
            input=[f"{scope}/Conv2D", *inputs],
        )
        norm.attr.add(key="scale_after_normalization").value.b = True
        norm.attr.add(key="variance_epsilon").value.f = 1e-3
    return graph.SerializeToString()


def _add_constant(graph: Any, name: str, tensor: Tensor) -> None:
    value = graph.node.add(name=name, op="Const").attr.add(key="value").value.tensor
    value.dtype = 1  # DT_FLOAT
    for side in tensor.shape:
        value.tensor_shape.dim.add(size=side)
    value.tensor_content = tensor.contiguous().numpy().tobytes()
