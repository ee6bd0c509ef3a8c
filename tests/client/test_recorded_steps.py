"""Every step that dgflow can write is rebuilt from its record alone, and has the fingerprint that it had."""

import importlib
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from steps.identities import INSTANCES
from steps.shipped import SYSTEMS, built, recipe

from dgflow import OwnDenoiser, Pretrained
from dgflow.engine.recorded import RecordedRoot
from dgflow.specs.graph import graph
from dgflow.specs.step import Step, Target
from dgflow.specs.train_step import TrainStep
from dgflow.steps.kinds import load_kinds
from dgflow.steps.published_network import PublishedNetwork
from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore
from dgflow.store.step_store import StepStore

OTHERS = ("cifar10_edm_workbench", "digits_selection")


def recorded(target: Target, store: ObjectStore) -> tuple[RecordedRoot, list[Step]]:
    """A store with the records of a recipe's steps and nothing else."""
    load_kinds()
    steps = [node.step for node in graph(target)]
    names = {step.name for step in steps}
    for step in steps:
        StepStore(store, step.kind, step.fingerprint).declare(step.document(), step.described(names))
    epochs = {step.name: step.epochs for step in steps if isinstance(step, TrainStep)}
    return RecordedRoot(store, epochs), steps


def check(target: Target, name: str) -> None:
    root, steps = recorded(target, MemoryStore(f"recorded-{name}"))
    for step in steps:
        found = root.step(step.name)
        assert (type(found), found.fingerprint) == (type(step), step.fingerprint)
        assert {path: each.fingerprint for path, each in found.reads.items()} == {
            path: each.fingerprint for path, each in step.reads.items()
        }


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_steps_of_shipped_recipes_are_rebuilt_from_their_records(system):
    check(built(system), system)


@pytest.mark.parametrize("name", OTHERS)
def test_the_steps_of_further_recipes_are_rebuilt_from_their_records(name):
    check(recipe(name)(), name)


@pytest.mark.slow
def test_the_six_hundred_steps_of_the_digits_workbench_are_rebuilt_from_their_records():
    check(recipe("digits_workbench")(), "digits_workbench")


def test_every_kind_of_step_and_spec_is_rebuilt_from_its_record():
    kinds = set()
    for number, step in enumerate(each for each in INSTANCES.values() if isinstance(each, Step)):
        check(step, f"instance-{number}")
        kinds.add(step.kind)
    assert len(kinds) > 30


def test_a_kind_that_is_not_imported_is_named_with_what_to_do():
    class Unknown(Step):
        width: int

    root, _ = recorded(Unknown(width=1), MemoryStore("recorded-unknown"))
    step = next(iter(root.names))
    root.recorded(step).document["kind"] = "own-kind"  # type: ignore[index]
    with pytest.raises(ValueError, match="found 'own-kind'; import the module that defines it before"):
        root.step(step)


def test_no_code_is_run_because_a_record_names_it(tmp_path, monkeypatch):
    """A root, and what others published, may name any module: it has to be imported by who opens them."""
    (tmp_path / "written_by_others.py").write_text("from torch.nn import Identity as Network\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = OwnDenoiser(factory="written_by_others:Network")
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    step = Pretrained(source=str(tmp_path / "weights.safetensors"), network=own, image_size=8)
    root, _ = recorded(step, MemoryStore("own-code"))
    rebuilt = root.step(step.name)  # what it is can be looked at
    receipt: Any = None
    with pytest.raises(ValueError, match="import written_by_others first"):
        root.weights(rebuilt, receipt)
    with pytest.raises(ValueError, match="import written_by_others first"):
        PublishedNetwork.of(step).weights(str(tmp_path))
    assert "written_by_others" not in sys.modules
    importlib.import_module("written_by_others")
    assert PublishedNetwork.of(step).weights(str(tmp_path)).step.network == own
