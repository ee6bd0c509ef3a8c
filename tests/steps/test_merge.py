"""Merge, and the training on a network's own samples that precedes it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
import torch
from inprocess import complete
from steps.toy_networks import SD, pretrained
from torch import Tensor

import dgflow as dg
from dgflow.cli.export_weights import export_weights, weights_of
from dgflow.engine.root import Root
from dgflow.specs.bound import BoundRows
from dgflow.specs.graph import graph
from dgflow.specs.step import NetworkStep, Slice, Weights
from dgflow.steps.judging.shared_samples import seen
from dgflow.store.identity import sha256_hex
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.weights.merging import merged
from dgflow.weights.tensors import load_weights


class Place(NamedTuple):
    """A root with a score network, its fakes, and a copy that was trained further on them."""

    store: ObjectStore
    base: Weights
    tuned: Weights
    fakes: Slice

    def kept(self, weights: Weights) -> dict[str, Tensor]:
        step, steps = weights.step, Root(self.store).step_store(weights.step)
        assert isinstance(step, NetworkStep)
        done = steps.done(step.folder, complete(step, self.store).digests)
        return load_weights(steps.read(steps.receipt(done[max(done)])))

    def column(self, name: str, samples: Slice) -> np.ndarray:
        rows = Root(self.store).item(samples, complete(samples, self.store))
        assert isinstance(rows, BoundRows)
        return np.concatenate([part[name] for part in rows.read([name])])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("merge")
    images = tiny.write_images(folder / "images.npz")
    score = tiny.score(images)
    # The phases of a Fourier embedding are buffers, which no training changes.
    network = score.network.model_copy(update={"embedding_type": "fourier", "channel_mult_noise": 2})
    score = score.model_copy(update={"network": network, "epochs": 1})
    fakes = tiny.fakes(images).model_copy(update={"score": score.last()})[:48]
    tuned = score.model_copy(update={"real": fakes, "start": score.last(), "seed": 7})
    complete(tuned, store := open_store(str(folder / "root")))
    return Place(store, score.last(), tuned.last(), fakes)


def test_merged_weights_lie_beyond_the_base_and_frozen_buffers_stay_as_they_are(place: Place) -> None:
    base, tuned = place.kept(place.base), place.kept(place.tuned)
    result = place.kept(dg.Merge(base=place.base, tuned=place.tuned, weight=0.75).weights())
    frozen = [name for name in base if torch.equal(base[name], tuned[name])]
    assert any("map_noise" in name for name in frozen) and len(frozen) < len(base)
    for name, value in base.items():
        if name in frozen:
            assert torch.equal(result[name].view(torch.int32), value.view(torch.int32))
        exact = 1.75 * value.double() - 0.75 * tuned[name].double()
        torch.testing.assert_close(result[name].double(), exact, rtol=2**-23, atol=0)


def test_a_weight_of_0_gives_the_samples_of_the_base_and_another_weight_gives_others(place: Place) -> None:
    def sampled(weights: Weights) -> np.ndarray:
        generate = place.fakes.step.model_copy(update={"score": weights, "seed": 3})
        assert isinstance(generate, dg.Generate)
        return place.column("image", generate[:8])

    plain = sampled(place.base)
    none, some = (dg.Merge(base=place.base, tuned=place.tuned, weight=weight) for weight in (0.0, 1.5))
    assert np.array_equal(sampled(none.weights()), plain)
    assert not np.array_equal(sampled(some.weights()), plain)


def test_at_0_signs_of_zeros_stay_and_at_minus_1_the_weights_are_the_tuned_ones() -> None:
    base = {"a": torch.tensor([-0.0, 0.0, 1.5]), "steps": torch.tensor(3)}
    tuned = {"a": torch.tensor([2.0, -0.0, 1.25]), "steps": torch.tensor(5)}
    for weight, expected in ((0.0, base["a"]), (-1.0, tuned["a"])):
        result = merged(base, tuned, weight)
        assert torch.equal(result["a"], expected) and result["steps"] == 3
    assert merged(base, tuned, 0.0)["a"].signbit().tolist() == [True, False, False]


def test_weights_are_rounded_once_to_the_format_of_the_base() -> None:
    base, tuned = torch.tensor([1.0], dtype=torch.float16), torch.tensor([1 - 2**-12])
    # 1 + 3 * 2**-12 is nearest to 1 + 2**-10 in float16; from a float16 `tuned` it would be 1.
    assert merged({"a": base}, {"a": tuned}, 3.0)["a"].item() == 1 + 2**-10


def test_a_merge_can_be_trained_further_and_merged_again(place: Place) -> None:
    merge = dg.Merge(base=place.base, tuned=place.tuned, weight=1.0)
    training = place.base.step
    assert isinstance(training, dg.TrainScore)
    further = training.model_copy(update={"start": merge.weights(), "seed": 8, "learning_rate": 1e-30})
    assert merge.network == training.network
    begun, kept = place.kept(further.last()), place.kept(merge.weights())
    assert all(torch.equal(begun[name], value) for name, value in kept.items())
    again = dg.Merge(base=merge.weights(), tuned=further.last(), weight=-0.5)
    assert place.kept(again.weights()).keys() == kept.keys()


def test_merged_weights_are_exported_with_what_they_are_and_come_back(place: Place, tmp_path: Path) -> None:
    merge = dg.Merge(base=place.base, tuned=place.tuned, weight=1.0)
    kept, exported = place.kept(merge.weights()), weights_of(f"{place.store.url}/{merge.name}")
    assert exported is not None
    out = str(tmp_path / "merged.safetensors")
    assert export_weights(*exported, out, "last").startswith(
        f"the weights of {merge.name} (SongUNet) written"
    )
    again = dg.Pretrained(source=out, network=merge.network, image_size=8, channels=1, num_classes=2)
    assert all(torch.equal(value, kept[name]) for name, value in place.kept(again.weights()).items())


def test_real_images_that_a_network_behind_a_merge_was_trained_on_are_known(place: Place) -> None:
    merge = dg.Merge(base=place.base, tuned=place.tuned, weight=1.0)
    training = place.base.step
    assert isinstance(training, dg.TrainScore)
    real = training.real
    assert seen(merge.weights(), real) == seen(place.base, real) == 48


def test_fakes_of_a_network_without_classes_train_it_further(place: Place) -> None:
    """Their label is -1, which is not a class of the images that the network was trained on."""
    training, generate = place.base.step, place.fakes.step
    score = training.model_copy(update={"conditional": False})
    assert isinstance(score, dg.TrainScore) and isinstance(generate, dg.Generate)
    fakes = generate.model_copy(update={"score": score.last()})[:32]
    tuned = score.model_copy(update={"real": fakes, "start": score.last(), "seed": 7})
    assert place.kept(dg.Merge(base=score.last(), tuned=tuned.last(), weight=1.0).weights())
    assert set(place.column("label", fakes).tolist()) == {-1}


def test_a_network_of_latents_is_trained_further_on_its_own(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", image=np.zeros((24, 16, 16, 3), np.uint8), label=np.arange(24) % 2)
    images = dg.ImportImages(source=str(tmp_path / "images.npz"), num_classes=2, image_size=16, shard_size=24)
    vae = pretrained(tmp_path, "vae", network=SD, image_size=16)
    network = dg.SongUNet(model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=())
    real = dg.Encode(images=images[:24], vae=vae.weights(), shard_size=24).all()
    score = dg.TrainScore(real=real, network=network, epochs=1, batch_size=8)
    fakes = dg.Generate(score=score.last(), sampler=dg.Heun(steps=2), shard_size=16)[:16]
    tuned = score.model_copy(update={"real": fakes, "start": score.last(), "seed": 7})
    merge = dg.Merge(base=score.last(), tuned=tuned.last(), weight=1.0)
    samples = dg.Generate(score=merge.weights(), sampler=dg.Heun(steps=2), shard_size=4)[:4]
    rows = samples.step.shard_builder(complete(samples.step, MemoryStore("latents")))(0, 4)
    assert rows["latent"].shape == (4, 4, 4, 4) and np.isfinite(rows["latent"]).all()
    assert merge.sees_latents and not np.array_equal(rows["latent"][0], rows["latent"][1])


def test_the_plan_takes_a_merge_of_files_from_outside_as_fetched_and_its_file_as_large_as_the_base() -> None:
    file = dg.Pretrained(source="a.safetensors", network=dg.SongUNet(), image_size=32)
    other = file.model_copy(update={"source": "b.safetensors"})
    merge = dg.Merge(base=file.weights(), tuned=other.weights(), weight=1.0)
    assert [type(node.step).__name__ for node in graph(merge)] == ["Pretrained", "Pretrained", "Merge"]
    assert merge.shape == file.shape and merge.work(1) == []


def test_weights_that_were_trained_apart_are_doubted() -> None:
    score = tiny.score(Path("images.npz"))
    apart = score.model_copy(update={"seed": 4})
    (caution,) = dg.Merge(base=score.last(), tuned=apart.last(), weight=1.0).cautions()
    assert "was not trained from base" in caution
    chain = apart.model_copy(update={"start": apart.model_copy(update={"start": score.last()}).last()})
    assert dg.Merge(base=score.last(), tuned=chain.last(), weight=1.0).cautions() == []
    assert dg.Merge(base=score.epoch(score.epochs), tuned=chain.last(), weight=1.0).cautions() == []


SCORE = tiny.score(Path("images.npz"))
FILE = dg.Pretrained(
    source="a.safetensors", network=SCORE.network, image_size=8, channels=1, num_classes=2
).weights()


def _file(**fields: object) -> Weights:
    return FILE.model_copy(update={"step": FILE.step.model_copy(update=fields)})


@pytest.mark.parametrize(
    ("tuned", "says"),
    [
        (
            _file(network=SCORE.network.model_copy(update={"model_channels": 16})),
            r"tuned: expected weights of the network of base, SongUNet with the same fields, found "
            r"model_channels=16 for 8; train it from base",
        ),
        (_file(network=dg.DhariwalUNet()), "found DhariwalUNet"),
        (_file(image_size=16), "tuned: expected a network for the same data as base, images of 1 channels"),
        (_file(num_classes=3), r"8 pixels per side with 2 classes, found images .* with 3 classes"),
        (_file(network=tiny.ENCODER), "expected a score network .*, found pretrained of ADMEncoder"),
        (SCORE.last(), r"tuned: expected weights other than base, found the same"),
        (SCORE.epoch(2), r"tuned: expected weights other than base, found the same .*epoch:2"),
        (SCORE, r"tuned\s+expected Weights, found a TrainScore; .*name its weights: \.last\(\)"),
    ],
)
def test_networks_of_other_shapes_are_refused(tuned: Weights, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        dg.Merge(base=SCORE.last(), tuned=tuned, weight=1.0)


def test_the_network_is_that_of_the_base_and_no_other_is_taken() -> None:
    merge = dg.Merge(base=FILE, tuned=SCORE.last(), weight=1.0)
    other = SCORE.model_copy(update={"network": dg.SongUNet()})
    changed = merge.model_copy(update={"base": other.last(), "tuned": other.epoch(1)})
    assert changed.network == dg.SongUNet()
    with pytest.raises(ValueError, match="network: expected none, as it is that of base, found SongUNet"):
        dg.Merge(base=FILE, tuned=SCORE.last(), weight=1.0, network=dg.SongUNet())  # type: ignore[call-arg]


def test_tensors_of_other_shapes_and_names_are_refused() -> None:
    one = {"a": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"a: expected tensors of one shape, found \[2\] and \[3\]"):
        merged(one, {"a": torch.zeros(3)}, 1.0)
    with pytest.raises(ValueError, match="expected only tensors that the base has too, found 'b'"):
        merged(one, one | {"b": torch.zeros(2)}, 1.0)
    assert sha256_hex(bytes(merged(one, {}, 1.0)["a"].numpy())) == sha256_hex(bytes(one["a"].numpy()))
