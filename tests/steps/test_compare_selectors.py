"""FID by epoch beside measurements without samples: choices, regrets and correlations, at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from inprocess import complete
from pydantic import ValidationError

from dgflow import CompareSelectors, DiscriminatorGuidance, Evaluate, Generate, Heun, TrainDiscriminator
from dgflow.engine.execute import result_of
from dgflow.engine.root import Root
from dgflow.specs.figures import Lines, Table
from dgflow.specs.step import Slice
from dgflow.steps.judging.selectors import SELECTORS, verdict
from dgflow.store.open import open_store

SELECTOR = {selector.name: selector for selector in SELECTORS}
METRICS = {  # by epoch; epoch 2 is best except by accuracy and by "last"
    epoch: {
        "held_out_loss": loss,
        "held_out_accuracy": accuracy,
        "by_sigma": [{"n": 10, "calibration_error": error}, {"n": 30, "calibration_error": 3 * error}],
        "gain": gain,
        "gain_error": 0.1,
        "gain_at_best_weight": 2 * gain,
    }
    for epoch, loss, accuracy, error, gain in (
        (1, 0.6, 0.6, 0.04, 0.5),
        (2, 0.5, 0.6, 0.02, 0.9),
        (3, 0.7, 0.8, 0.08, 0.4),
    )
}


def arm(training: TrainDiscriminator, epoch: int | None, seed: int, samples: int = 16) -> Slice:
    """Returns samples guided by an epoch, None for no guidance."""
    terms = () if epoch is None else (DiscriminatorGuidance(discriminator=training.epoch(epoch)),)
    assert isinstance(training.fake, Slice)
    fake: Any = training.fake.step
    return Generate(score=fake.score, sampler=Heun(steps=3), guidance=terms, seed=seed, shard_size=8)[
        :samples
    ]


def comparison(source: Path, epochs: tuple[int, ...] = (1, 2), trained: int = 2) -> CompareSelectors:
    training = tiny.discriminator(source, epochs=trained)
    arms = {f"epoch {epoch}": tuple(arm(training, epoch, seed) for seed in (5, 6)) for epoch in epochs} | {
        "unguided": tuple(arm(training, None, seed) for seed in (5, 6))
    }
    base = tiny.workflow(str(source))
    evaluation = base.model_copy(update={"arms": arms, "metrics": ("fid",)})
    return CompareSelectors(by_epoch=evaluation.result(), training=training.measurements())


def test_values_are_read_from_the_metrics_of_every_epoch() -> None:
    found = {name: selector.values(METRICS) for name, selector in SELECTOR.items()}
    assert found == {
        "gain": {1: 0.5, 2: 0.9, 3: 0.4},
        "gain_at_best_weight": {1: 1.0, 2: 1.8, 3: 0.8},
        "held_out_loss": {1: 0.6, 2: 0.5, 3: 0.7},
        "held_out_accuracy": {1: 0.6, 2: 0.6, 3: 0.8},
        "calibration_error": pytest.approx({1: 0.1, 2: 0.05, 3: 0.2}),  # weighted by the items per level
        "last": {1: 1.0, 2: 2.0, 3: 3.0},
    }
    assert SELECTOR["gain"].values({1: METRICS[1], 2: {"held_out_loss": 0.5}}) is None


def test_the_choice_its_regret_and_its_correlation_follow_from_the_fids() -> None:
    fids = {1: [8.0, 10.0], 2: [5.0, 5.0], 3: [11.0, 13.0]}
    good = verdict(SELECTOR["held_out_loss"], {1: 0.6, 2: 0.5, 3: 0.7}, fids)
    assert (good["choice"], good["regret"]["mean"], good["fid"]["mean"]) == (2, 0.0, 5.0)
    assert (good["spearman"]["value"], good["kendall"]["value"]) == (pytest.approx(1), pytest.approx(1))
    assert good["kendall"]["p"] == pytest.approx(2 / 6) and good["spearman"]["interval"] == pytest.approx(
        [1, 1]
    )
    last = verdict(SELECTOR["last"], {1: 1.0, 2: 2.0, 3: 3.0}, fids)
    assert last["choice"] == 3
    assert last["regret"] == {"mean": 7.0, "spread": pytest.approx(2**0.5), "per_seed": [6.0, 8.0]}
    assert last["spearman"]["value"] == pytest.approx(-0.5)  # the order 2, 1, 3 of FID against 3, 2, 1
    assert last["kendall"]["value"] == pytest.approx(-1 / 3)


def test_the_earliest_of_equal_epochs_is_chosen() -> None:
    assert SELECTOR["held_out_accuracy"].choice({3: 0.8, 1: 0.6, 2: 0.8}) == 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompareSelectors, Any]:
    folder = tmp_path_factory.mktemp("selectors")
    target, store = comparison(tiny.write_images(folder / "images.npz")), open_store(str(folder / "root"))
    complete(target, store)
    return target, store


def test_the_result_has_the_fids_of_the_evaluation_and_the_metrics_of_the_training(
    made: tuple[CompareSelectors, Any],
) -> None:
    target, store = made
    found, evaluation = json.loads(result_of(target, store)), target.by_epoch.step
    assert isinstance(evaluation, Evaluate)
    arms = json.loads(result_of(evaluation, store))["arms"]
    assert found["epochs"] == found["trained"] == [1, 2] and set(found["arms"]) == {"unguided"}
    for number, values in zip((1, 2), found["fid"], strict=True):
        assert values["per_seed"] == arms[f"epoch {number}"]["fid"]["per_seed"]
    steps = Root(store).step_store(target.training.step)
    receipts = [steps.receipt(key) for keys in steps.committed("epochs").values() for key in keys.values()]
    losses = {receipt.number: receipt.metrics["held_out_loss"] for receipt in receipts}
    loss = found["selectors"]["held_out_loss"]
    assert loss["values"] == [losses[1], losses[2]] and loss["choice"] == min(losses, key=lambda n: losses[n])
    assert set(found["selectors"]) >= {"held_out_loss", "held_out_accuracy", "calibration_error", "last"}


def test_its_figures_are_a_curve_for_fid_and_each_selector_and_a_table_of_choices(
    made: tuple[CompareSelectors, Any],
) -> None:
    target, store = made
    content = result_of(target, store)
    found = json.loads(content)
    *curves, table = target.figures(content)
    assert all(isinstance(each, Lines) for each in curves) and isinstance(table, Table)
    by_epoch = len(found["selectors"]) - 1  # none for the last epoch
    assert len(curves) == 1 + by_epoch and len(table.rows) == by_epoch + 1
    fid = curves[0]
    assert isinstance(fid, Lines) and fid.curves[0].y == [each["mean"] for each in found["fid"]]
    compared = target.compared(content)
    assert set(compared) == {row[0] for row in table.rows}
    assert {name for arm in compared.values() for name in arm} == set(target.quantities)
    assert min(arm["regret"]["mean"] for arm in compared.values()) == 0


def test_other_measurements_of_the_same_weights_are_another_input(made: tuple[CompareSelectors, Any]) -> None:
    target, store = made
    bound = complete(target, store)
    item: Any = bound.items["training"]
    first, *rest = item.receipts

    def digest(**metrics: Any) -> str:
        changed = first.model_copy(update={"metrics": first.metrics | metrics})
        return replace(item, receipts=(changed, *rest)).digest

    assert bound.digests["training"] == item.digest == digest(data_wait=0.5, workers=7)
    assert digest(held_out_loss=0.1) != item.digest


def test_what_cannot_be_compared_is_refused() -> None:
    unused = Path("images.npz")
    with pytest.raises(ValidationError, match="expected at least 2 arms.*found 1"):
        comparison(unused, epochs=(2,))
    training = tiny.discriminator(unused, epochs=3)
    with pytest.raises(ValidationError, match="expected measurements of the 3 epochs .* found 2"):
        CompareSelectors(
            by_epoch=comparison(unused, (1, 3), trained=3).by_epoch,
            training=tiny.discriminator(unused, epochs=2).measurements(),
        )
    statistics = tiny.workflow(str(unused)).inputs()["floor"]
    with pytest.raises(ValidationError, match="expected the result of an Evaluate, found that of measure"):
        CompareSelectors(by_epoch=statistics, training=training.measurements())  # type: ignore[arg-type]
