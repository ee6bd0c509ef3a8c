"""Official file formats as bytes, from tensors: what the readers of `dgflow.networks.read` take, for smoke
runs and for tests.

Promises the layouts that the readers describe, and averages that differ from the raw weights beside them, so
that a reader which took the wrong ones would be found. EDM's pickles are in `edm_writer`.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dgflow.networks.inception.graph_file import NODES, message

Tensors = Mapping[str, Tensor]


def write_state_dict(tensors: Tensors) -> bytes:
    """A flat `.pt` or `.pth`, names and tensors: ADM, DG, released DiT files, and Inception of torch-fidelity
    and pytorch-fid."""
    return _saved(dict(tensors))


def write_soft_truncation(tensors: Tensors, ema_names: Sequence[str]) -> bytes:
    """Soft Truncation's `.pth`: `tensors` as the averages, which it holds for the trainable parameters
    `ema_names`, in their order."""
    model = {
        f"module.{name}": _raw(tensor) if name in set(ema_names) else tensor
        for name, tensor in tensors.items()
    }
    ema = {"decay": 0.9999, "num_updates": 1, "shadow_params": [tensors[name].clone() for name in ema_names]}
    optimizer = {"state": {}, "param_groups": [{"lr": 2e-4, "params": list(range(len(ema_names)))}]}
    return _saved({"optimizer": optimizer, "model": model, "ema": ema, "step": 1})


def write_lsgm(prior: Tensors, ema_names: Sequence[str], vae: Tensors, args: Mapping[str, Any]) -> bytes:
    """LSGM's `checkpoint.pt`, with the run's arguments: `prior` as the averages, which its optimizer keeps by
    position, and the NVAE."""
    state = {position: {"step": 1, "ema": prior[name].clone()} for position, name in enumerate(ema_names)}
    optimizer = {"state": state, "param_groups": [{"lr": 1e-4, "params": list(range(len(ema_names)))}]}
    raw = {name: _raw(tensor) if name in set(ema_names) else tensor for name, tensor in prior.items()}
    found = {
        "epoch": 1,
        "global_step": 1,
        "args": argparse.Namespace(**args),
        "dae_state_dict": raw,
        "vae_state_dict": dict(vae),
    }
    return _saved(found | {"dae_optimizer": optimizer})


def write_inception_graph(tensors: Tensors) -> bytes:
    """OpenAI's frozen graph, from tensors by the names of PyTorch's ports: constants, and the batch norms
    that read them."""
    graph = message("Graph")()
    for name, ours in NODES.items():
        tensor = tensors[ours]
        if ours.endswith("conv.weight"):
            tensor = tensor.permute(2, 3, 1, 0)  # OIHW -> HWIO
        _constant(graph, name, tensor.t() if ours == "fc.weight" else tensor)
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


def _constant(graph: Any, name: str, tensor: Tensor) -> None:
    value = graph.node.add(name=name, op="Const").attr.add(key="value").value.tensor
    value.dtype = 1  # DT_FLOAT
    for side in tensor.shape:
        value.tensor_shape.dim.add(size=side)
    value.tensor_content = tensor.contiguous().numpy().tobytes()


def _raw(tensor: Tensor) -> Tensor:
    """Weights that are not the averages."""
    return tensor + 1 if tensor.is_floating_point() else tensor


def _saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()
