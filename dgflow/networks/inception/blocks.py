"""The blocks of the Inception network of 2015-12-05 (Szegedy et al. 2015, figures 5 to 7), with the submodule
names of the published PyTorch weights. Maps are [N, C, H, W].

TensorFlow's graph differs from the paper in two points: averages exclude padding, and the last block uses
maximum pooling.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-3  # of every batch normalisation in TensorFlow's graph


class FrozenNorm(nn.Module):
    """Batch normalisation by stored statistics.

    nn.BatchNorm2d would add a counter of training batches, which the published network does not have.
    """

    def __init__(self, channels: int):
        super().__init__()
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, torch.full((channels,), value))

    def affine(self) -> tuple[Tensor, Tensor]:
        """(scale [C], shift [C]) in float64: normalising is x * scale + shift."""
        weight, bias, mean, variance = (
            self.get_buffer(name).double() for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / torch.sqrt(variance + EPSILON)
        return scale, bias - mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale_C11, shift_C11 = (values.to(x.dtype)[:, None, None] for values in self.affine())
        return x * scale_C11 + shift_C11


class ConvNorm(nn.Module):
    """Convolution without bias, normalisation, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn: nn.Module = FrozenNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)

    def after_average(self, x: Tensor) -> Tensor:
        """Apply this unit, a 1x1 convolution, to the 3x3 averages of x, which exclude padding.

        A 1x1 convolution commutes with the average; after the convolution there are 4 to 7 times fewer
        channels to average.
        """
        return F.relu(
            F.avg_pool2d(self.bn(self.conv(x)), 3, stride=1, padding=1, count_include_pad=False), inplace=True
        )

    def fold(self) -> None:
        """Fold the normalisation into the convolution, in place.

        The products are computed in float64 and rounded once.
        """
        if not isinstance(self.bn, FrozenNorm):
            return
        scale, shift = self.bn.affine()
        weight = self.conv.weight
        self.conv.weight = nn.Parameter(
            (weight.double() * scale[:, None, None, None]).to(weight.dtype), requires_grad=False
        )
        self.conv.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=False)
        self.bn = nn.Identity()


class Mixed35(nn.Module):
    """Mixed_5b to Mixed_5d, on maps of 35 x 35: 224 + `pooled` channels."""

    def __init__(self, inputs: int, pooled: int):
        super().__init__()
        self.branch1x1 = ConvNorm(inputs, 64, 1)
        self.branch5x5_1 = ConvNorm(inputs, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch5x5_2(self.branch5x5_1(x)),
                double,
                self.branch_pool.after_average(x),
            ],
            dim=1,
        )


class Shrink35(nn.Module):
    """Mixed_6a, from 35 x 35 to 17 x 17: 480 + `inputs` channels."""

    def __init__(self, inputs: int):
        super().__init__()
        self.branch3x3 = ConvNorm(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvNorm(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class Mixed17(nn.Module):
    """Mixed_6b to Mixed_6e, on maps of 17 x 17: 768 channels, `inner` of them within the factorised 7 x 7
    convolutions."""

    def __init__(self, inner: int):
        super().__init__()
        row, column = (0, 3), (3, 0)
        self.branch1x1 = ConvNorm(768, 192, 1)
        self.branch7x7_1 = ConvNorm(768, inner, 1)
        self.branch7x7_2 = ConvNorm(inner, inner, (1, 7), padding=row)
        self.branch7x7_3 = ConvNorm(inner, 192, (7, 1), padding=column)
        self.branch7x7dbl_1 = ConvNorm(768, inner, 1)
        self.branch7x7dbl_2 = ConvNorm(inner, inner, (7, 1), padding=column)
        self.branch7x7dbl_3 = ConvNorm(inner, inner, (1, 7), padding=row)
        self.branch7x7dbl_4 = ConvNorm(inner, inner, (7, 1), padding=column)
        self.branch7x7dbl_5 = ConvNorm(inner, 192, (1, 7), padding=row)
        self.branch_pool = ConvNorm(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool.after_average(x)], dim=1)


class Shrink17(nn.Module):
    """Mixed_7a, from 17 x 17 to 8 x 8: 1280 channels."""

    def __init__(self):
        super().__init__()
        self.branch3x3_1 = ConvNorm(768, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvNorm(768, 192, 1)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, F.max_pool2d(x, 3, stride=2)], dim=1)


class Mixed8(nn.Module):
    """Mixed_7b and Mixed_7c, on maps of 8 x 8: 2048 channels. The second uses maximum pooling."""

    def __init__(self, inputs: int, maximum: bool):
        super().__init__()
        row, column = (0, 1), (1, 0)
        self.branch1x1 = ConvNorm(inputs, 320, 1)
        self.branch3x3_1 = ConvNorm(inputs, 384, 1)
        self.branch3x3_2a = ConvNorm(384, 384, (1, 3), padding=row)
        self.branch3x3_2b = ConvNorm(384, 384, (3, 1), padding=column)
        self.branch3x3dbl_1 = ConvNorm(inputs, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNorm(384, 384, (1, 3), padding=row)
        self.branch3x3dbl_3b = ConvNorm(384, 384, (3, 1), padding=column)
        self.branch_pool = ConvNorm(inputs, 192, 1)
        self.maximum = maximum

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branches = [self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)]
        branches += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        pooled = (
            self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))
            if self.maximum
            else self.branch_pool.after_average(x)
        )
        return torch.cat([*branches, pooled], dim=1)
