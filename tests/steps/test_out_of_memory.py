"""A batch that does not fit into a GPU's memory is halved, wherever that happens, and the rows are those of
smaller batches."""

import logging
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import torch
from inprocess import complete
from steps.toy_networks import SCORES, SD, pretrained

import dgflow as dg
from dgflow.diffusion import acceleration
from dgflow.diffusion.batches import Batches
from dgflow.networks.stable_diffusion.spec import StableDiffusionVAE
from dgflow.steps.decode import Decode
from dgflow.steps.encode import Encode
from dgflow.store.memory import MemoryStore


def refusing(most: int, sizes: list[int]):
    """Stands for a GPU with memory for `most` rows; `sizes` collects the requested batch sizes."""

    def check(rows: int) -> None:
        sizes.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return check


@pytest.fixture
def small_gpu(monkeypatch):
    """Limits networks to that many rows; returns the requested batch sizes."""

    def limit(most: int) -> list[int]:
        sizes: list[int] = []
        check, prepared = refusing(most, sizes), acceleration.prepared

        def limited(network, **options):
            network.register_forward_pre_hook(lambda _, given: check(len(given[0])))
            return prepared(network, **options)

        monkeypatch.setattr(acceleration, "prepared", limited)
        return sizes

    return limit


def generate(folder: Path, **fields: Any) -> dg.Generate:
    score = pretrained(folder, "SongUNet", **SCORES["SongUNet"])
    fields = {"sampler": dg.Heun(steps=2)} | fields
    return dg.Generate(score=score.weights(), shard_size=12, **fields)


def builder(step):
    return step.shard_builder(complete(step, MemoryStore(uuid4().hex)))


def test_sampling_halves_its_batch_once_and_gives_what_the_smaller_batch_gives(tmp_path, small_gpu, caplog):
    expected = builder(generate(tmp_path, batch_size=3))
    step = generate(tmp_path)
    sizes = small_gpu(4)
    build = builder(step)
    with caplog.at_level(logging.WARNING):
        found = [build(0, 12), build(12, 24)]
    for number, rows in enumerate(found):
        for name, values in expected(12 * number, 12 * number + 12).items():
            np.testing.assert_array_equal(rows[name], values)
    evaluations = sum(size == 3 for size in sizes)
    assert sizes == [12, 6] + [3] * evaluations and evaluations == 3 * 8  # Heun's 3 evaluations of 8 batches
    assert [record.getMessage() for record in caplog.records] == [
        f"{step.name}: out of GPU memory with batches of {size}; this worker continues with at most "
        f"{size // 2}, which can change the rounding of values"
        for size in (12, 6)
    ]


def test_a_sample_that_does_not_fit_alone_is_an_error_that_says_what_to_do(tmp_path, small_gpu):
    sizes = small_gpu(0)
    with pytest.raises(
        ValueError, match=r"^generate-.*for one row at a time, found too little .*: use GPUs with more memory"
    ):
        builder(generate(tmp_path))(0, 12)
    assert sizes == [12, 6, 3, 1]


def test_a_shared_block_is_never_cut(tmp_path, small_gpu):
    sizes = small_gpu(4)
    with pytest.raises(ValueError, match="expected GPU memory for a shared_block of 6 samples"):
        builder(generate(tmp_path, sampler=dg.RK45(tolerance=0.1, shared_block=6)))(0, 12)
    assert sizes == [6]


def test_encoding_and_decoding_halve_theirs(tmp_path, monkeypatch):
    np.savez(
        tmp_path / "images.npz",
        image=np.random.default_rng(1).integers(0, 256, (10, 16, 16, 3), np.uint8),
        label=np.zeros(10, int),
    )
    images = dg.ImportImages(source=str(tmp_path / "images.npz"), num_classes=1, image_size=16, shard_size=10)
    vae = pretrained(tmp_path, "VAE", network=SD, image_size=16).weights()
    encoded = Encode(images=images[:10], vae=vae, shard_size=10)
    decoded = Decode(latents=encoded[:10], vae=vae, shard_size=10)
    for step, method in ((encoded, "encode"), (decoded, "decode")):
        expected = builder(step.model_copy(update={"batch_size": 5}))(0, 10)
        sizes: list[int] = []
        check, real = refusing(5, sizes), getattr(StableDiffusionVAE, method)

        def limited(spec, network, rows, check=check, real=real):
            check(len(rows))
            return real(spec, network, rows)

        build = builder(step)
        with monkeypatch.context() as patched:
            patched.setattr(StableDiffusionVAE, method, limited)
            found = build(0, 10)
        assert sizes[0] == 10 and set(sizes[1:]) == {5}
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


def test_batches_are_even_and_at_most_as_large_as_asked():
    assert Batches(4, of="x").map(lambda first, last: (first, last), 10, 20) == [(10, 13), (13, 16), (16, 20)]
    assert Batches(4, of="x", fixed=True).map(lambda first, last: (first, last), 10, 20) == [
        (10, 14),
        (14, 18),
        (18, 20),
    ]
