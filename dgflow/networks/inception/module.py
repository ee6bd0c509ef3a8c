"""The Inception network of 2015-12-05, whose features define FID, sFID, the Inception score, precision and
recall. For evaluation only, in full float32 on every device; `metrics.front_ends` prepares its input.

Shape suffixes: N images, C channels, H and W rows and columns.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dgflow.metrics.protocols import SIDE
from dgflow.networks.inception.blocks import ConvNorm, Mixed8, Mixed17, Mixed35, Shrink17, Shrink35

SPATIAL_CHANNELS = 7  # of 192; 7 x 17 x 17 = 2023 is about as wide as `pooled` (Nash et al. 2021)


class InceptionFeatures(NamedTuple):
    """The network's outputs for the metrics, for N images, in the network's dtype.

    pooled: [N, 2048], the average of the last maps (pool_3), >= 0. FID, KID, precision and recall.
    spatial: [N, 2023], the first 7 channels of Mixed_6d's 1x1 branch (mixed_6/conv), flattened as [17, 17,
        7], >= 0. sFID.
    logits: [N, 1008], without the last layer's bias, as OpenAI's evaluator takes them. Inception score.
    """

    pooled: Tensor
    spatial: Tensor
    logits: Tensor


class InceptionV3Module(nn.Module):
    """Inception v3 (Szegedy et al. 2015) with the 1008 outputs and the pooling of TensorFlow's graph of
    2015-12-05."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b = Mixed35(192, pooled=32)
        self.Mixed_5c = Mixed35(256, pooled=64)
        self.Mixed_5d = Mixed35(288, pooled=64)
        self.Mixed_6a = Shrink35(288)
        self.Mixed_6b = Mixed17(inner=128)
        self.Mixed_6c = Mixed17(inner=160)
        self.Mixed_6d = Mixed17(inner=160)
        self.Mixed_6e = Mixed17(inner=192)
        self.Mixed_7a = Shrink17()
        self.Mixed_7b = Mixed8(1280, maximum=False)
        self.Mixed_7c = Mixed8(2048, maximum=True)
        self.fc = nn.Linear(2048, 1008)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> InceptionFeatures:
        """Features of images [N, 3, 299, 299] in [-1, 1], prepared by `front_ends.prepare`, in the network's
        dtype and on its device.

        float32 is computed in full precision, for any setting of the process; float64 needs a float64
        network. Raises ValueError for another shape or dtype: half precision changes the features by 0.5 %.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != (3, SIDE, SIDE):
            raise ValueError(
                f"expected prepared images [N, 3, {SIDE}, {SIDE}], found {list(x.shape)}; see "
                "metrics.front_ends.prepare"
            )
        if x.dtype != self.fc.weight.dtype or x.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"expected images and weights both in float32 or both in float64, found {x.dtype} and "
                f"{self.fc.weight.dtype}"
            )
        with torch.no_grad(), full_precision(x.device):
            return self._features(x)

    def _features(self, x: Tensor) -> InceptionFeatures:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x)))
        spatial_NHWC = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1)  # the 1x1 branch comes first in a Mixed17
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(x))))
        pooled = x.mean(dim=(2, 3))
        return InceptionFeatures(pooled, spatial_NHWC.flatten(1), pooled @ self.fc.weight.T)


def accelerated(network: InceptionV3Module) -> InceptionV3Module:
    """Return a faster copy whose results are equal up to rounding (< 1e-6 of the largest feature); `network`
    keeps the published weights.

    The normalisations are folded into the convolutions, and the weights are channels last, for vectorised
    pooling: on one CPU thread, 1.6 times the images per second of torch-fidelity's extractor, 1.1 times
    without that layout. Nine tenths of the remaining time are convolutions at the speed of a matrix product.
    """
    fast = copy.deepcopy(network)
    for module in fast.modules():
        if isinstance(module, ConvNorm):
            module.fold()
    return fast.to(memory_format=torch.channels_last)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """A context with full-precision float32 products and convolutions: no TF32 (the default of cuDNN's
    convolutions), no bfloat16, no autocast.

    The settings are process-wide and restored afterwards, so the context is not for two threads at once.
    torch has an old interface (`allow_tf32`) and a new one (`fp32_precision`), and CUDA's products fail if
    the two disagree; therefore both are set.
    """
    backends: Any = torch.backends  # attributes exist at run time only
    old = (backends.cuda.matmul, backends.cudnn)
    new = (
        *(backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn),
        *(backends.mkldnn.matmul, backends.mkldnn.conv),
    )
    allowed = [_allows_tf32(place) for place in old]
    before = [place.fp32_precision for place in new]
    try:
        for place in old:
            place.allow_tf32 = False
        for place in new:
            place.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for place, allow in zip(old, allowed, strict=True):
            if allow is not None:
                place.allow_tf32 = allow
        for place, precision in zip(new, before, strict=True):
            place.fp32_precision = precision


def _allows_tf32(place: Any) -> bool | None:
    """The setting of the old interface; None if torch refuses to return it because the new one disagrees."""
    try:
        return place.allow_tf32
    except RuntimeError:
        return None
