"""The counter-based generator against Random123's vectors, a plain-integer implementation, and the
distributions that it promises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dgflow.diffusion import noise

WORD = st.integers(0, 2**32 - 1)


def philox_in_plain_integers(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Computes Philox with Python's unbounded integers (Salmon et al. 2011, section 3.4 and figure 2)."""
    c, k, mask = list(counter), list(key), 2**32 - 1
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & mask, (p0 >> 32) ^ c[3] ^ k[1], p0 & mask]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return tuple(c)


def philox_in_torch(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    return tuple(int(word) for word in noise.philox((c0, c1, c2, c3), key))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_published_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox_in_torch(counter, key) == expected == philox_in_plain_integers(counter, key)


@given(st.tuples(WORD, WORD, WORD, WORD), st.tuples(WORD, WORD))
@settings(max_examples=200, deadline=None)
def test_philox_is_the_plain_integer_one_for_any_words(
    counter: tuple[int, ...], key: tuple[int, int]
) -> None:
    assert philox_in_torch(counter, key) == philox_in_plain_integers(counter, key)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1), st.integers(0, 2**24 - 1), st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_the_layout_of_seed_index_step_and_draw_is_the_documented_one(
    seed: int, index: int, step: int, draw: int
) -> None:
    key = (seed % 2**32, seed // 2**32)
    blocks = [
        philox_in_plain_integers((block, index % 2**32, index // 2**32, draw * 2**24 + step), key)
        for block in range(2)
    ]
    units = [(((a << 20) | (b >> 12)) + 0.5) / 2**52 for block in blocks for a, b in (block[:2], block[2:])]
    normals = []
    for first, second in (units[:2], units[2:]):
        radius = math.sqrt(-2 * math.log(first))
        normals += [radius * math.cos(2 * math.pi * second), radius * math.sin(2 * math.pi * second)]
    at = torch.tensor([index])
    assert noise.uniform(seed, at, (3,), step=step, draw=draw)[0].tolist() == units[:3]
    expected = torch.tensor([normals[:3]], dtype=torch.float64)
    torch.testing.assert_close(
        noise.standard_normal(seed, at, (3,), step=step, draw=draw), expected, rtol=2e-15, atol=1e-14
    )
    bits = (blocks[0][0] << 32) | blocks[0][1]
    assert int(noise.integers(seed, at, 1000, step=step, draw=draw)) == bits * 1000 >> 64


def test_golden_vectors_of_every_kind_are_unchanged() -> None:
    index = torch.tensor([0, 1, 123_456_789_012])
    normal = noise.standard_normal(2**63 + 5, index, (3,), step=7, draw=noise.CHURN)
    assert [[value.hex() for value in row] for row in normal.tolist()] == NORMALS
    assert [
        value.hex() for value in noise.uniform(1, index, (), step=0, draw=noise.LEVEL).tolist()
    ] == UNIFORMS
    assert noise.integers(1, index, 10, draw=noise.LABEL).tolist() == INTEGERS


def test_numbers_do_not_depend_on_the_batch_or_its_order() -> None:
    index = torch.tensor([3, 999, 0, 2**40, 17, 18, 19])
    whole = noise.standard_normal(11, index, (3, 5, 5), step=2, draw=noise.LATENT)
    for i in range(len(index)):
        assert torch.equal(
            noise.standard_normal(11, index[i : i + 1], (3, 5, 5), step=2, draw=noise.LATENT)[0], whole[i]
        )
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        noise.standard_normal(11, index[order], (3, 5, 5), step=2, draw=noise.LATENT), whole[order]
    )
    assert torch.equal(noise.standard_normal(11, index, (75,), step=2, draw=noise.LATENT), whole.flatten(1))


def test_normals_follow_the_normal_law() -> None:
    x = noise.standard_normal(5, torch.arange(4000), (50,), step=3, draw=noise.NOISE).flatten()
    n = x.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert float((x**power).mean()) == pytest.approx(moment, abs=4 * math.sqrt(variance / n))
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-3


def test_uniforms_follow_the_uniform_law_and_never_touch_the_ends() -> None:
    u = noise.uniform(5, torch.arange(4000), (50,), step=3, draw=noise.LEVEL).flatten()
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    least, most = noise._unit(torch.tensor([0, 2**32 - 1]), torch.tensor([0, 2**32 - 1])).tolist()
    assert (least, most) == (2.0**-53, 1 - 2.0**-53)


def test_integers_are_uniform_over_the_classes() -> None:
    counts = torch.bincount(noise.integers(9, torch.arange(50_000), 10, draw=noise.LABEL), minlength=10)
    assert counts.numel() == 10 and stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_samples_steps_draws_seeds_and_elements_are_uncorrelated() -> None:
    index = torch.arange(20_000)
    reference = noise.standard_normal(1, index, (2,), step=0, draw=0)
    others = [
        noise.standard_normal(1, index + 1, (2,), step=0, draw=0),
        noise.standard_normal(1, index, (2,), step=1, draw=0),
        noise.standard_normal(1, index, (2,), step=0, draw=1),
        noise.standard_normal(2, index, (2,), step=0, draw=0),
        noise.standard_normal(1 + 2**32, index, (2,), step=0, draw=0),
        noise.standard_normal(1, index + 2**32, (2,), step=0, draw=0),
        reference.flip(1),
    ]
    for other in others:
        assert float((reference * other)[:, 0].mean()) == pytest.approx(0, abs=4 / math.sqrt(len(index)))


def test_the_named_draws_do_not_collide() -> None:
    draws = [value for name, value in vars(noise).items() if name.isupper() and not name.startswith("_")]
    assert len(draws) == len(set(draws)) and all(0 <= value < 256 for value in draws)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"step": 2**24}, "step"),
        ({"step": -1}, "step"),
        ({"draw": 256}, "draw"),
        ({"index": torch.tensor([4, -1])}, "indices >= 0, found -1"),
        ({"index": torch.tensor([1.0])}, "int64"),
        ({"index": torch.tensor(1)}, "int64"),
        ({"shape": (2**17, 2**17)}, "elements"),
    ],
)
def test_what_does_not_fit_the_layout_is_refused(options: dict, message: str) -> None:
    arguments = {"seed": 0, "index": torch.tensor([0]), "shape": (1,), "step": 0, "draw": 0} | options
    with pytest.raises(ValueError, match=message):
        noise.uniform(
            arguments["seed"],
            arguments["index"],
            arguments["shape"],
            step=arguments["step"],
            draw=arguments["draw"],
        )


def test_the_square_root_is_correctly_rounded_even_where_the_library_s_is_not() -> None:
    x = 73.0 * noise.uniform(4, torch.arange(50_000), (), step=0)
    exact = torch.tensor([math.sqrt(value) for value in x.tolist()], dtype=torch.float64)
    nearby = torch.stack(
        [
            torch.nextafter(exact, torch.zeros_like(exact)),
            exact,
            torch.nextafter(exact, 100 * torch.ones_like(exact)),
        ]
    )
    assert torch.equal(noise._sqrt(x), exact)
    with pytest.MonkeyPatch.context() as patch:
        for wrong in nearby:
            patch.setattr(torch, "sqrt", lambda _, wrong=wrong: wrong)
            assert torch.equal(noise._sqrt(x), exact)


@pytest.mark.parametrize("high", [0, 2**31 + 1])
def test_a_range_that_integers_cannot_cover_is_refused(high: int) -> None:
    with pytest.raises(ValueError, match="high"):
        noise.integers(0, torch.tensor([0]), high)


def test_the_generator_is_one_graph_for_torch_compile() -> None:
    compiled = torch.compile(
        lambda index: noise.standard_normal(3, index, (4, 4), step=1, draw=2),
        backend="aot_eager",
        fullgraph=True,
    )
    index = torch.arange(5)
    assert torch.equal(compiled(index), noise.standard_normal(3, index, (4, 4), step=1, draw=2))


NORMALS = [
    ["0x1.ccd8fe544dff1p-2", "-0x1.21e07384bc80bp-1", "0x1.669a33628ec77p-2"],
    ["0x1.3418a263487f1p-1", "0x1.e9178a240bbfdp-3", "-0x1.e2696c4654e52p-3"],
    ["0x1.27863e093512dp-8", "0x1.6aa0f8b4a5476p-1", "-0x1.1163e9d0d6fc6p-2"],
]
UNIFORMS = ["0x1.aaab5799293c5p-1", "0x1.653ba26e3a4ebp-1", "0x1.1a071e22df0a0p-6"]
INTEGERS = [6, 9, 3]
