"""The study of ensembles on digits: steps shared with the main recipe, and a run at toy size."""

import json
import math
import runpy
import sys

import pytest
from inprocess import execute_here
from steps.shipped import WORKFLOWS, recipe

from dgflow import Generate, TrainDiscriminator
from dgflow.specs.graph import graph
from dgflow.specs.train_step import TrainStep

KINDS = ("plain", "bagged")


def test_in_the_root_of_digits_judge_score_fakes_and_first_discriminator_are_there_already():
    ours, theirs = (
        {node.step.fingerprint: node.step for node in graph(recipe(name)())}
        for name in ("digits_ensemble", "digits")
    )
    wanted = {key for key, step in theirs.items() if isinstance(step, TrainStep | Generate)}
    assert wanted <= set(ours)
    members = [step for step in ours.values() if isinstance(step, TrainDiscriminator)]
    assert sorted((step.seed, step.bootstrap) for step in members if step.bootstrap is None) == [
        (number, None) for number in range(3)
    ]
    assert sorted((step.seed, step.bootstrap) for step in members if step.bootstrap is not None) == [
        (number, number) for number in range(3)
    ]


@pytest.mark.smoke
def test_every_member_and_both_combinations_of_either_kind_have_an_arm(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dgflow.cli.recipe.execute", execute_here)
    monkeypatch.chdir(tmp_path)
    options = ["--smoke", "--members", "2", "--seeds", "101", "--epochs", "1", "--root", "toy", "--json"]
    monkeypatch.setattr(sys, "argv", ["digits_ensemble.py", "run", *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(WORKFLOWS / "digits_ensemble.py"), run_name="__main__")
    run = capsys.readouterr()
    assert not ended.value.code, run.err[-3000:]
    arms = json.loads(run.out.splitlines()[-1])["arms"]
    guided = {f"{kind}{part}" for kind in KINDS for part in (" 1", " 2", ", logits", ", probabilities")}
    assert set(arms) == {"unguided"} | guided
    fids = [arm["fid"]["mean"] for arm in arms.values()]
    assert all(math.isfinite(fid) for fid in fids)
    assert len(set(fids)) == len(fids)  # no two arms have the same guidance
