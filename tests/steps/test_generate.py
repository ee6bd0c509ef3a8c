"""Samples by index: their dependencies, and networks that give NaN."""

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from inprocess import complete

from dgflow import DiscriminatorGuidance, Generate, Heun
from dgflow.engine.root import Root
from dgflow.specs.bound import Bound, BoundWeights
from dgflow.specs.step import MeasuredColumns
from dgflow.steps.pixels import counted, saturated
from dgflow.store.open import open_store
from dgflow.weights.tensors import load_weights, save_weights


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns a root with a trained score network and discriminator, and the weights of both as inputs."""
    folder = tmp_path_factory.mktemp("generate")
    source = tiny.write_images(folder / "images.npz")
    store = open_store(str(folder / "root"))
    disc = tiny.discriminator(source, 1)
    inputs = complete(disc, store)
    disc_steps, score = Root(store).step_store(disc), tiny.score(source)
    score_inputs = complete(score, store)
    score_steps = Root(store).step_store(score)

    def weights(step, steps, bound):
        done = steps.done("epochs", bound.digests)
        return BoundWeights(step, steps, steps.receipt(done[max(done)]), bound)

    return (
        score,
        disc,
        {
            "score": weights(score, score_steps, score_inputs),
            "guidance.0.discriminator": weights(disc, disc_steps, inputs),
        },
    )


def rows(step: Generate, items, start: int, stop: int):
    return step.shard_builder(Bound(items))(start, stop)


def generate(made, **fields: Any) -> Generate:
    options: dict[str, Any] = {"seed": 3} | fields
    return Generate(score=made[0].last(), sampler=Heun(steps=4), **options)


def guided(made, weight: float) -> Generate:
    return generate(
        made,
        guidance=(
            DiscriminatorGuidance(discriminator=made[1].last(), weight=weight, second_order_weight=weight),
        ),
    )


def test_labels_are_exact_and_pixels_equal_to_rounding_whatever_the_batch(made):
    whole = rows(generate(made, batch_size=24), made[2], 0, 24)
    parts = [rows(generate(made, batch_size=5), made[2], start, start + 8) for start in (0, 8, 16)]
    assert (whole["label"] == np.concatenate([part["label"] for part in parts])).all()
    difference = whole["image"].astype(int) - np.concatenate([part["image"] for part in parts])
    assert (
        abs(difference).max() <= 1
    )  # the stated tolerance: one grey level, if a value rounds in the other direction


def test_the_same_batches_give_the_same_bits(made):
    first, second = (rows(generate(made), made[2], 8, 24) for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)


def test_a_seed_is_another_stream(made):
    assert (
        rows(generate(made), made[2], 0, 16)["image"] != rows(generate(made, seed=4), made[2], 0, 16)["image"]
    ).any()


def test_guidance_of_weight_zero_changes_no_bit_and_of_weight_one_changes_pixels_but_no_label(made):
    plain, none, one = (
        rows(step, made[2], 0, 16) for step in (generate(made), guided(made, 0.0), guided(made, 1.0))
    )
    assert (plain["image"] == none["image"]).all()
    assert (plain["label"] == one["label"]).all() and (plain["image"] != one["image"]).any()
    assert one["log_ratio"].dtype == np.float32 and np.isfinite(one["log_ratio"]).all()


@pytest.mark.parametrize("victim", ["score", "guidance.0.discriminator"])
def test_nan_of_a_network_names_the_sample_the_step_and_what_to_do(made, victim, tmp_path):
    item = made[2][victim]
    tensors = {
        name: torch.full_like(value, float("nan"))
        for name, value in load_weights(item.step_store.read(item.receipt)).items()
    }
    other = Root(open_store(str(tmp_path))).step_store(item.step)
    commit: dict[str, Any] = dict(
        suffix="safetensors", rows_sha256="0" * 64, inputs={}, seconds=0.0, device="cpu", versions={}
    )
    receipt = other.commit("epochs", 1, save_weights(tensors), **commit)
    items = made[2] | {victim: BoundWeights(item.step, other, receipt, item.inputs)}
    step = guided(made, 1.0)
    with pytest.raises(
        FloatingPointError, match=rf"found NaN or infinity in sample 8 of {step.name}.*earlier epoch"
    ):
        rows(step, items, 8, 16)


def test_saturated_samples_are_counted_and_images_are_not(made):
    """A gradient of weight 1e6 leaves the range of images everywhere."""
    plain = {"index": np.arange(8)}
    assert counted(plain, np.zeros(8, bool)) is plain
    columns = rows(guided(made, 1e6), made[2], 0, 8)
    assert isinstance(columns, MeasuredColumns) and columns.metrics == {"saturated": 8}


@pytest.mark.parametrize(("share", "expected"), [(0.0, False), (0.25, False), (0.26, True), (1.0, True)])
def test_an_image_is_saturated_from_more_than_a_quarter_of_its_values_on(share, expected):
    images = torch.ones(1, 1, 10, 10)
    images.flatten()[: round(100 * share)] = -1.6
    assert saturated(images).tolist() == [expected]
