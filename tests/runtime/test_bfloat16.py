"""bfloat16 on a CPU without instructions for it: reported by the receipt, and by a pilot."""

import pytest
import tiny
import torch
from inprocess import complete

from dgflow import Generate, Heun
from dgflow.diffusion import bfloat16
from dgflow.diffusion.bfloat16 import slow_bfloat16
from dgflow.engine.plan import plan
from dgflow.engine.receipt_warnings import WarnsOnce, receipt_warnings
from dgflow.engine.root import Root
from dgflow.engine.shard_work import shard_work
from dgflow.estimate.estimates import piloted
from dgflow.specs.spec import Precision
from dgflow.store.open import open_store


@pytest.fixture(autouse=True)
def anew():
    slow_bfloat16.cache_clear()
    yield
    slow_bfloat16.cache_clear()


def capable(monkeypatch, capability="AVX512", flags=("avx512_bf16",), machine="x86_64"):
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: capability == "AVX512")
    monkeypatch.setattr(bfloat16, "_flags", lambda: set(flags))
    monkeypatch.setattr(bfloat16.platform, "machine", lambda: machine)


@pytest.mark.parametrize("flags", [("avx512_bf16",), ("amx_bf16",), ()])
def test_a_cpu_with_the_instructions_or_of_which_nothing_is_known_is_not_warned_of(monkeypatch, flags):
    capable(monkeypatch, flags=flags)
    assert slow_bfloat16() == ""


@pytest.mark.parametrize(
    ("capability", "flags", "limit", "why"),
    [
        ("AVX2", ("avx2",), None, "AVX2"),
        ("DEFAULT", (), None, "DEFAULT"),
        ("AVX512", ("avx512f",), None, "AVX-512 without BF16"),
        ("AVX512", ("avx512_bf16",), "AVX2", "oneDNN is limited to AVX2"),
        ("AVX512", ("avx512_bf16",), "avx512_core", "oneDNN is limited to avx512_core"),
    ],
)
def test_a_cpu_without_them_is_told_with_the_reason_and_the_remedy(
    monkeypatch, capability, flags, limit, why
):
    capable(monkeypatch, capability, flags)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert f'({why}): use precision="float32"' in slow_bfloat16()


def test_samples_and_a_pilot_tell_it_for_bfloat16_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    store = open_store(str(tmp_path / "root"))
    source = tiny.write_images(tmp_path / "images.npz")
    cases: tuple[tuple[Precision, int], ...] = (("bfloat16", 1), ("float32", 0))
    for precision, told in cases:
        step = Generate(
            score=tiny.score(source, epochs=1).last(),
            sampler=Heun(steps=2),
            shard_size=4,
            precision=precision,
        )
        lines = []
        reader = tiny.discriminator(source).model_copy(update={"fake": step[:64]})
        costs = piloted(plan(reader, store), lines.append)
        assert sum("warning: precision" in line for line in lines) == told
        assert ("times as long in bfloat16 as in float32" in costs.assumptions) == bool(told)
        inputs, steps = complete(step, store), Root(store).step_store(step)
        shard_work(step, steps, inputs)(0)
        receipt = steps.receipt(steps.key("shards", 0, inputs.digests))
        assert len([line for line in receipt_warnings(step, [receipt]) if "bfloat16" in line]) == told
        said: list[str] = []
        warn = WarnsOnce(step, steps, "shards", inputs, said.append)
        warn(0)
        warn(1)
        assert len([line for line in said if "bfloat16" in line]) == told
