"""Random numbers as a pure function of (seed, sample index, step, draw): Philox 4x32-10 (Salmon et al. 2011,
"Random123") in torch.

The numbers of sample i do not depend on batch, other samples, shard, worker, thread count or device. There is
no state and no host sync. The bits agree everywhere because only exactly defined operations are used:
integers below 2**63, and float64 +, -, * and /, which IEEE 754 rounds correctly. Library logarithms, sines
and (MKL's) square roots differ in the last bit between devices and vector lengths, so Box-Muller has its own
versions. A compiler that fuses multiply and add may change the last bit of a normal (never of a uniform or an
integer); run eagerly if bits matter.

Layout, which is part of every stored sample's identity and must not change:
    key      word 0   seed, low 32 bits               word 1   seed, high 32 bits
    counter  word 0   block (two elements per block)  word 1   sample index, low 32 bits
             word 2   sample index, high 31 bits      word 3   draw << 24 | step
    ranges   0 <= seed < 2**64, 0 <= index < 2**63, 0 <= step < 2**24, 0 <= draw < 2**8,
             elements per sample <= 2**33
Element 2k of a sample comes from words 0, 1 of block k's output, element 2k + 1 from words 2, 3 (a normal
pair uses all four).
`uniform`, `standard_normal` and `integers` read the same stream, so two uses need different (step, draw): the
draws in use are named below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LATENT = 0  # the unit normal that a sample starts from
LABEL = 1  # a sample's class label
CHURN = 2  # noise that a sampler adds in its step `step`
LEVEL = 3  # a training example's noise level, sigma or tau
NOISE = 4  # a training example's noise
FLIP = 5  # the mirroring of a training example
ORDER = 6  # keys that put a set into its random order
EVALUATION_LEVEL = 7  # LEVEL for held-out losses, equal in all epochs; step 1: Gain, step 2: losses by level
EVALUATION_NOISE = 8  # as NOISE, for losses on held-out data
POSTERIOR = 9  # the unit normal of a latent that is drawn from an encoder's posterior
COMPONENT = 10  # the component of a mixture that a point is drawn from
POINT = 11  # the unit normal of a point of a mixture
DEQUANTISATION = 12  # the position of an image's values within their quantisation steps; `step` is the repeat
PROBE = 13  # the signs of Hutchinson's estimator; `step` is the repeat
BOUND_LEVEL = 14  # the noise levels of an image's likelihood bound; `step` is the repeat
BOUND_NOISE = 15  # the bound's noise at each of n levels, in steps n r to n r + n - 1 of repeat r
TRUNCATION = 16  # the noise of an image whose likelihood starts at a noise level; `step` is the repeat
REGENERATION = 17  # noise of a regenerated real image: step 0 for the start, step 1 + n for step n
REJECTION_UNIFORM = 19  # the uniform of a sample's test; `step` is the number of the test
REJECTION_NORMAL = 20  # noise that sends a sample back or restarts it; `step` counts per sample
RESAMPLING = 22  # uniforms that choose among a sample's particles; `step` is the path's position
PARTICLE_LATENT = 23  # as LATENT, for a sample's further particles; `step` is the particle
PARTICLE_NOISE = 24  # as CHURN; `step` is particle * 2**14 + the number of the draw

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Philox 4x32-10 of four counter words under a key of two.

    Args:
        counter: four int64 tensors of broadcastable shapes with values in [0, 2**32).
        key: two Python integers in [0, 2**32).

    Returns four int64 tensors with values in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high_0, low_0 = _multiply(c0, _MULTIPLIERS[0])
        high_1, low_1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


Step = int | Tensor
"""The step of a draw: one for all samples, or one per sample, int64 [B]."""


def uniform(seed: int, index_B: Tensor, shape: Sequence[int], *, step: Step, draw: int = 0) -> Tensor:
    """Uniform numbers in the open interval (0, 1), float64 [B, *shape], odd multiples of 2**-53.

    Args:
        seed: 64-bit seed.
        index_B: int64 [B], the samples' indices. Negative indices raise ValueError on the CPU, where the
            check needs no sync.
        shape: shape of one sample; () for a single number.
        step, draw: see the layout above. Steps in a tensor are not checked.

    Raises ValueError for arguments that do not fit the layout.
    """
    words = _words(seed, index_B, math.prod(shape), step, draw)
    pairs = torch.stack([_unit(words[0], words[1]), _unit(words[2], words[3])], dim=-1)
    return _elements(pairs, shape)


def standard_normal(seed: int, index_B: Tensor, shape: Sequence[int], *, step: Step, draw: int = 0) -> Tensor:
    """Independent standard normals, float64 [B, *shape], by Box-Muller; arguments as in `uniform`.

    Largest possible |value|: 8.57.
    """
    words = _words(seed, index_B, math.prod(shape), step, draw)
    radius = _sqrt(-2.0 * _log(_unit(words[0], words[1])))
    cosine, sine = _cos_sin_turns(_unit(words[2], words[3]))
    return _elements(torch.stack([radius * cosine, radius * sine], dim=-1), shape)


def integers(seed: int, index_B: Tensor, high: int, *, step: int = 0, draw: int = 0) -> Tensor:
    """One integer per sample, uniform on [0, high), int64 [B]; 1 <= high <= 2**31.

    The bias is below high / 2**64.
    """
    if not 1 <= high <= 2**31:
        raise ValueError(f"expected 1 <= high <= 2**31, found {high}")
    words = _words(seed, index_B, 1, step, draw)
    # The high half of (64 random bits) * high, in two steps below 2**63.
    return ((words[0] * high + ((words[1] * high) >> 32)) >> 32)[:, 0]


def _words(seed: int, index_B: Tensor, size: int, step: Step, draw: int) -> Words:
    """Philox output for every block of every sample: four int64 [B, ceil(size / 2)]."""
    steps = () if isinstance(step, Tensor) else (("step", step, 24),)
    for name, value, bits in (("seed", seed, 64), *steps, ("draw", draw, 8)):
        if not 0 <= value < 2**bits:
            raise ValueError(f"expected 0 <= {name} < 2**{bits}, found {value}")
    if index_B.dtype != torch.int64 or index_B.ndim != 1:
        raise ValueError(f"expected sample indices int64 [B], found {index_B.dtype} {list(index_B.shape)}")
    if size > 2**33:
        raise ValueError(f"expected at most 2**33 elements per sample, found {size}")
    if (
        index_B.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and index_B.numel()
        and int(index_B.min()) < 0
    ):
        raise ValueError(f"expected sample indices >= 0, found {int(index_B.min())}")
    block = torch.arange((size + 1) // 2, device=index_B.device)[None, :]
    low, high = (index_B & _MASK)[:, None], ((index_B >> 32) & _MASK)[:, None]
    if isinstance(step, Tensor):
        last = (step.to(block) | (draw << 24))[:, None]
    else:
        last = torch.full_like(block[:, :1], (draw << 24) | step)
    return philox((block, low, high, last), (seed & _MASK, seed >> 32))


def _elements(pairs: Tensor, shape: Sequence[int]) -> Tensor:
    """Reshape [B, blocks, 2] to [B, *shape], dropping the last value if the last block is half used."""
    return pairs.flatten(1)[:, : math.prod(shape)].reshape(pairs.shape[0], *shape)


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b for 32-bit a, b. b is split into halves so that no product exceeds 2**63
    (signed overflow is undefined in C++)."""
    upper, lower = a * (b >> 16), a * (b & 0xFFFF)
    high = (upper + (lower >> 16)) >> 16
    low = (lower + ((upper & 0xFFFF) << 16)) & _MASK
    return high, low


def _unit(a: Tensor, b: Tensor) -> Tensor:
    """(k + 1/2) / 2**52 with the 52 bits k from two words: exact in float64, never 0 or 1."""
    bits = (a << 20) | (b >> 12)
    return (bits.double() + 0.5) * 2.0**-52


def _log(u: Tensor) -> Tensor:
    """Natural logarithm of float64 u in (0, 1) by +, -, *, / only; relative error below 5e-16."""
    # u = mantissa * 2**exponent by its bits, mantissa in [0.5, 1) at first; torch.frexp does not compile on
    # the CPU (torch 2.14).
    bits = u.view(torch.int64)
    mantissa = ((bits & (2**52 - 1)) | (1022 << 52)).view(torch.float64)
    low = mantissa < math.sqrt(0.5)
    mantissa = torch.where(low, 2.0 * mantissa, mantissa)
    exponent = ((bits >> 52) - 1022 - low.long()).double()
    # log(m) = 2 atanh(z), z = (m - 1) / (m + 1), |z| < 0.1716: the first term left out is below 1e-18 of the
    # sum.
    z = (mantissa - 1.0) / (mantissa + 1.0)
    square = z * z
    series = torch.full_like(z, 1.0 / 23.0)
    for k in range(21, 0, -2):
        series = series * square + 1.0 / k
    return exponent * math.log(2.0) + 2.0 * z * series


def _sqrt(x: Tensor) -> Tensor:
    """Correctly rounded square root of float64 x > 0, independent of the library's last bit (MKL's is
    sometimes wrong).

    One Newton step with the exact residual x - root^2, with the square split into two floats (Dekker 1971).
    """
    root = torch.sqrt(x)
    scaled = 134217729.0 * root  # 2**27 + 1
    high = scaled - (scaled - root)
    low = root - high
    square = root * root
    error = ((high * high - square) + 2.0 * high * low) + low * low
    return root + ((x - square) - error) / (2.0 * root)


def _cos_sin_turns(u: Tensor) -> tuple[Tensor, Tensor]:
    """cos(2 pi u), sin(2 pi u) for float64 u in (0, 1) by +, -, * only; absolute error below 1e-15."""
    quarter = torch.floor(4.0 * u + 0.5)
    x = (u - 0.25 * quarter) * (2.0 * math.pi)  # the subtraction is exact, |x| <= pi / 4
    square = x * x
    cosine, sine = torch.full_like(x, 1.0), torch.full_like(x, 1.0)
    for k in range(9, 0, -1):
        cosine = 1.0 - cosine * square * (1.0 / ((2 * k - 1) * (2 * k)))
        sine = 1.0 - sine * square * (1.0 / ((2 * k) * (2 * k + 1)))
    sine = sine * x
    swap = (quarter == 1.0) | (quarter == 3.0)
    cosine, sine = torch.where(swap, sine, cosine), torch.where(swap, cosine, sine)
    cosine = torch.where((quarter == 1.0) | (quarter == 2.0), -cosine, cosine)
    return cosine, torch.where((quarter == 2.0) | (quarter == 3.0), -sine, sine)
