"""True if this process computes bfloat16 slower than float32."""

from __future__ import annotations

import os
import platform
from functools import cache

# Limits of oneDNN (ONEDNN_MAX_CPU_ISA) below the first with bfloat16.
_WITHOUT = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")


@cache
def slow_bfloat16() -> str:
    """A warning where this process computes on a CPU without instructions for bfloat16; "" elsewhere.

    Measured on the sampling of CIFAR-10's network: nine times float32's time on AVX2 alone, and half of it
    with AVX512-BF16.
    """
    from dgflow.diffusion.acceleration import device

    if device().type != "cpu" or not (lacking := _lacking()):
        return ""
    return (
        'precision="bfloat16" is several times slower than float32 on this CPU, which has no instructions '
        f'for it ({lacking}): use precision="float32", a CPU with AVX512-BF16 or AMX, or a GPU'
    )


def _lacking() -> str:
    """The evidence that the CPU itself does no convolutions and products in bfloat16; "" if it does."""
    import torch

    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in _WITHOUT:
        return f"oneDNN is limited to {limit}"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.backends.cpu.get_cpu_capability()
    if platform.machine() not in ("x86_64", "AMD64"):
        return ""
    # oneDNN also takes AVX-512 without bfloat16, where it converts to float32 and back.
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX", "AVX2"):
        return torch.backends.cpu.get_cpu_capability()
    flags = _flags()
    return "" if flags & {"avx512_bf16", "amx_bf16"} or not flags else "AVX-512 without BF16"


def _flags() -> set[str]:
    """The features of the CPU by Linux's names; none where they cannot be read."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next((set(line.split()) for line in lines if line.startswith("flags")), set())
    except OSError:
        return set()
