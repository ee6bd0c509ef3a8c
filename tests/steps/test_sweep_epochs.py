"""Numbers of epochs in one graph: every reference to last or best weights has its own meaning, and the
training runs once, to the largest number."""

import json
from typing import ClassVar

import pytest
import tiny
from inprocess import complete, execute_here

from dgflow import Evaluate, Features, TrainClassifier
from dgflow.cli.guard import guarded
from dgflow.cli.recipe import application
from dgflow.engine.execute import result_of
from dgflow.engine.plan import plan
from dgflow.engine.root import Root
from dgflow.specs.figures import Metric
from dgflow.specs.graph import graph
from dgflow.specs.step import ResultStep, Slice
from dgflow.steps.sweeping.sweep import Combination, Sweep
from dgflow.store.open import open_store

MOST = 3


class MeanFeature(ResultStep):
    """The mean of all features, which differs for every epoch of the network."""

    quantities: ClassVar = {"mean": Metric("mean feature")}

    features: Slice

    def compute(self, inputs, spread, store):
        value = float(inputs.rows("features", ["features"])["features"].astype("float64").mean())
        return json.dumps({"mean": {"mean": value, "spread": None, "per_seed": [value]}}).encode()

    def compared(self, content):
        return {"network": json.loads(content)}


def training(source, epochs):
    return TrainClassifier(
        real=tiny.real(source)[:64], network=tiny.JUDGE, epochs=epochs, batch_size=16, held_out=0.25
    )


def mean_feature(source, weights):
    return MeanFeature(features=Features(samples=tiny.real(source)[64:96], network=weights)[:32])


def swept(results):
    return Sweep(
        combinations=tuple(
            Combination(settings={"epochs": number}, result=each.result()) for number, each in results.items()
        )
    )


def means(sweep, store):
    table = sweep.table(result_of(sweep, store))
    return {row.settings["epochs"]: row.values["mean"].mean for row in table.rows}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return tiny.write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture(scope="module")
def single(source, tmp_path_factory):
    """Returns the mean feature by epoch, in an otherwise empty root; and the losses of the epochs."""
    store = open_store(str(tmp_path_factory.mktemp("single")))
    step = training(source, MOST)
    found = {}
    for number in range(1, MOST + 1):
        target = mean_feature(source, step.epoch(number))
        complete(target, store)
        found[number] = json.loads(result_of(target, store))["mean"]["mean"]
    (of_training,) = [each for each in plan(target, store) if each.step.folder == "epochs"]
    receipts = Root(store).step_store(step).receipts(list(of_training.done.values()))
    return found, {receipt.number: receipt.metrics["held_out_loss"] for receipt in receipts}


@pytest.fixture(scope="module")
def union(source, tmp_path_factory):
    """Returns the root of one sweep over epochs, by last and best weights."""
    store = open_store(str(tmp_path_factory.mktemp("union")))
    numbers = range(1, MOST + 1)
    last = swept({number: mean_feature(source, training(source, number).last()) for number in numbers})
    best = swept({number: mean_feature(source, training(source, number).best()) for number in numbers})
    complete(last, store)
    complete(best, store)
    return store, last, best


def test_the_steps_of_all_combinations_have_one_fingerprint_and_are_nodes_of_their_own(union):
    _, last, _ = union
    results = [each.result.step for each in last.combinations]
    assert (
        len({step.fingerprint for step in results}) == 1 and len({step.variant for step in results}) == MOST
    )
    nodes = graph(last)
    (trained,) = [node for node in nodes if node.step.folder == "epochs"]
    assert isinstance(trained.step, TrainClassifier) and trained.step.epochs == MOST
    assert trained.key == trained.step.fingerprint
    of_features = [node for node in nodes if isinstance(node.step, Features)]
    assert len(of_features) == MOST == len({node.key for node in of_features})


def test_last_weights_are_those_of_each_number_of_epochs(union, single):
    store, last, _ = union
    assert means(last, store) == single[0]
    assert len(set(single[0].values())) == MOST


def test_best_weights_are_the_best_of_each_number_of_epochs(union, single):
    store, _, best = union
    by_epoch, losses = single
    expected = {
        number: by_epoch[min(range(1, number + 1), key=losses.__getitem__)] for number in range(1, MOST + 1)
    }
    assert means(best, store) == expected
    assert len(set(expected.values())) > 1  # with more epochs, a better one was found


def test_the_training_ran_once_and_each_recipe_alone_finds_its_own_complete(union, source):
    store, last, _ = union
    step = training(source, MOST)
    (of_training,) = [each for each in plan(last, store) if each.step.folder == "epochs"]
    assert len(Root(store).step_store(step).committed("epochs")) == MOST == len(of_training.done)
    for number in range(1, MOST + 1):
        alone = plan(mean_feature(source, training(source, number).last()), store)
        assert all(each.complete for each in alone)


def test_more_epochs_add_only_their_own_parts_to_the_plan(union, source):
    store, _, _ = union
    wider = swept(
        {number: mean_feature(source, training(source, number).last()) for number in range(1, MOST + 2)}
    )
    open_ones = [(each.step.kind, len(each.missing)) for each in plan(wider, store) if not each.complete]
    assert open_ones == [("train-classifier", 1), ("features", 1), ("mean-feature", 1), ("sweep", 1)]


def test_parts_for_other_numbers_of_epochs_are_not_called_stale(source, tmp_path):
    store = open_store(str(tmp_path))
    complete(mean_feature(source, training(source, 1).last()), store)
    root, step = Root(store), training(source, 2)
    complete(mean_feature(source, step.epoch(2)), store)  # the training is complete
    both = swept({number: mean_feature(source, training(source, number).last()) for number in (1, 2)})
    of_features = [each for each in plan(both, store) if isinstance(each.step, Features)]
    states = dict(zip((1, 2), of_features, strict=True))
    assert states[1].complete
    assert (states[2].action, states[2].reason) == ("build", "built only for other numbers of epochs so far")
    assert root.step_store(states[2].step).committed("shards")


def test_an_evaluation_swept_over_epochs_by_command_agrees_with_single_runs(tmp_path, monkeypatch, capsys):
    """The whole pipeline is guided by the last epoch: generated samples differ, and are never confused."""
    monkeypatch.chdir(tmp_path)
    tiny.write_images(tmp_path / "images.npz")
    for module in ("recipe", "sweep_run"):
        monkeypatch.setattr(f"dgflow.cli.{module}.execute", execute_here)

    def workflow(epochs: int = 1) -> Evaluate:
        target = tiny.workflow(samples=8)
        guided = target.arms["guided"][0]
        term = guided.step.guidance[0]  # pyright: ignore[reportAttributeAccessIssue]
        last = tiny.discriminator(tmp_path / "images.npz", epochs).last()
        own = guided.step.model_copy(update={"guidance": (term.model_copy(update={"discriminator": last}),)})
        arms = {"unguided": target.arms["unguided"], "guided": (own[:8],)}
        return target.model_copy(update={"arms": arms})

    def call(*arguments):
        app = application(workflow, "tiny")
        assert guarded(lambda: app(args=[*arguments, "--json"], standalone_mode=False)) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    rows = call("sweep", "--epochs", "1,2", "--root", "swept")["rows"]
    values = {row["settings"]["epochs"]: row["fid"]["mean"] for row in rows}
    assert values[1] != values[2]
    assert call("run", "--epochs", "1", "--root", "alone")["arms"]["guided"]["fid"]["mean"] == values[1]
    for epochs in ("1", "2"):
        assert call("plan", "--epochs", epochs, "--root", "swept")["total"]["todo"] == 0
