"""Vendors' specifications of devices, for estimates before a run.

Rates are dense, without sparsity; bfloat16 and float16 with float32 accumulation. Prices are given by the
user.
"""

from __future__ import annotations

from dataclasses import dataclass

from dgflow.specs.mistakes import did_you_mean
from dgflow.specs.spec import Precision

UTILISATION = 0.35
"""The share of the vendor's rate that networks are assumed to reach. This value is not measured: large
batches of large networks reach more, small networks and short runs less.
"""


@dataclass(frozen=True)
class Device:
    """A device. Rates are in TFLOP/s; a format without hardware support has the rate of float32. `float16` is
    None where it equals `bfloat16`.
    """

    title: str
    memory_gb: int
    float32: float
    tf32: float
    bfloat16: float
    float16: float | None = None

    def rates(self, precision: Precision, *, whole: bool = False) -> tuple[float, float]:
        """TFLOP/s of convolutions and of other products in torch.

        In float32, torch by default uses TF32 for convolutions but not for matrix products. With `whole`,
        both are in float32, as for Inception.
        """
        if precision == "bfloat16":
            return self.bfloat16, self.bfloat16
        if precision == "float16":
            half = self.bfloat16 if self.float16 is None else self.float16
            return half, half
        if precision == "tf32":
            return self.tf32, self.tf32
        return self.float32 if whole else self.tf32, self.float32


DEVICES = {
    "b200": Device("NVIDIA B200", 180, 75, 1125, 2250),
    "h200": Device("NVIDIA H200 SXM", 141, 67, 494.7, 989.4),
    "h100": Device("NVIDIA H100 SXM", 80, 67, 494.7, 989.4),
    "h100-pcie": Device("NVIDIA H100 PCIe", 80, 51, 378, 756),
    "a100": Device("NVIDIA A100 80 GB", 80, 19.5, 156, 312),
    "a100-40": Device("NVIDIA A100 40 GB", 40, 19.5, 156, 312),
    "l40s": Device("NVIDIA L40S", 48, 91.6, 183, 362),
    "a10": Device("NVIDIA A10", 24, 31.2, 62.5, 125),
    "l4": Device("NVIDIA L4", 24, 30.3, 60, 121),
    "v100": Device("NVIDIA V100 SXM2", 32, 15.7, 15.7, 15.7, 125),
    "t4": Device("NVIDIA T4", 16, 8.1, 8.1, 8.1, 65),
    "rtx4090": Device("NVIDIA RTX 4090", 24, 82.6, 82.6, 165.2),
    "rtx3090": Device("NVIDIA RTX 3090", 24, 35.6, 35.6, 71),
}


def device_named(name: str) -> Device:
    """The device of that name. Raises ValueError, which lists the names, if there is none."""
    device = DEVICES.get(name.lower())
    if device is None:
        near = did_you_mean(name.lower(), DEVICES).rstrip("?")
        raise ValueError(
            f"expected a device of {', '.join(DEVICES)}, found {name!r}{near}; for any other device, run "
            "`--pilot` on it"
        )
    return device
