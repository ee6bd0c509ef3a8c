"""Detect CPUs on which bfloat16 is slower than float32."""

from __future__ import annotations

import os
import platform
from functools import cache

# Values of ONEDNN_MAX_CPU_ISA that limit oneDNN to instruction sets without bfloat16.
_WITHOUT = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


@cache
def slow_bfloat16() -> str:
    """The warning for a process on a CPU without bfloat16 instructions; "" for any other process.

    Sampling with CIFAR-10's network takes nine times as long as in float32 on a CPU with AVX2 only, and half
    as long on one with AVX512-BF16.
    """
    from dgflow.diffusion.acceleration import device

    if device().type != "cpu" or not (lacking := _lacking()):
        return ""
    return (
        'precision="bfloat16" is several times slower than float32 on this CPU, which has no instructions '
        f'for it ({lacking}): use precision="float32", a CPU with AVX512-BF16 or AMX, or a GPU'
    )


def _lacking() -> str:
    """The reason why this CPU has no bfloat16 convolutions and products, as text; "" if it has them."""
    import torch

    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in _WITHOUT:
        return f"oneDNN is limited to {limit}"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.backends.cpu.get_cpu_capability()
    if platform.machine() not in ("x86_64", "AMD64"):
        return ""
    # oneDNN also accepts AVX-512 without bfloat16, but then converts to float32 and back.
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2"):
        return torch.backends.cpu.get_cpu_capability()
    flags = _flags()
    return "" if flags & {"avx512_bf16", "amx_bf16"} or not flags else "AVX-512 without BF16"


def _flags() -> set[str]:
    """The CPU's feature flags by their Linux names; empty if they cannot be read."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next((set(line.split()) for line in lines if line.startswith("flags")), set())
    except OSError:
        return set()
