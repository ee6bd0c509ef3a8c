"""Mistakes in a recipe as its author meets them: one message with the class, the field, the remedy and the
line of the recipe."""

import errno
import inspect
import os
import re
from pathlib import Path
from typing import Any

import pytest
import tiny

import dgflow
from dgflow.cli.building import built
from dgflow.cli.command import as_written
from dgflow.cli.guard import guarded
from dgflow.cli.recipe import application
from dgflow.specs import train_step

dg: Any = dgflow  # what a type checker would find is tried here without one

REAL = tiny.real(Path("images.npz"))
SCORE: Any = tiny.score(Path("images.npz"))
FAKES: Any = tiny.fakes(Path("images.npz"))
JUDGE = dg.TrainClassifier(real=REAL[:64], network=tiny.JUDGE)
FILE = dg.Pretrained(source="net.safetensors", network=dg.SongUNet(), image_size=8, channels=1)


EVALUATION = {"arms": {"plain": (FAKES[:32],)}, "reference": REAL[64:96], "features": JUDGE.last()}


def message(workflow, capsys, *arguments: str) -> str:
    """Returns the line with which a recipe's command line ends."""
    call = guarded(
        lambda: application(workflow, "mistaken")(args=[*(arguments or ("plan",))], standalone_mode=False)
    )
    printed = capsys.readouterr()
    assert call == 1 and printed.out == "" and "Traceback" not in printed.err
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


FIELDS = [
    (
        lambda: dg.Heun(step=18),
        "Heun.step: no such field; did you mean steps? Heun has S_churn, S_max, S_min",
    ),
    (lambda: dg.Heun(steps=1), "Heun.steps: expected a number greater than 1, found 1"),
    (lambda: dg.Heun(steps="many"), "Heun.steps: expected a whole number, found 'many'"),
    (lambda: dg.Heun(18), "expected fields by name, as in Heun(steps=18)"),
    (lambda: dg.Heun(S_min=3, S_max=1), "Heun: expected S_min <= S_max, found 3.0 and 1.0"),
    (lambda: dg.EDMAblation(S_min=3, S_max=1), "EDMAblation: expected S_min <= S_max"),
    (lambda: dg.Heun(sigma_min=2, sigma_max=1), "expected sigma_min < sigma_max, found 2.0 and 1.0"),
    (lambda: dg.Heun(sigma_max=0.001), "expected sigma_min (by default) < sigma_max, found 0.002 and 0.001"),
    (lambda: dg.Heun(rho=0), "Heun.rho: expected a number greater than 0, found 0"),
    (lambda: dg.Heun(rho=float("inf")), "Heun.rho: expected a finite number, found inf"),
    (lambda: dg.RK45(tau_min=0.5, tau_max=0.1), "RK45: expected tau_min < tau_max, found 0.5 and 0.1"),
    (
        lambda: dg.DiscriminatorGuidance(discriminator=JUDGE.last(), tau_min=0.6, tau_max=0.2),
        "DiscriminatorGuidance: expected tau_min <= tau_max, found 0.6 and 0.2",
    ),
    (
        lambda: dg.DiscriminatorGuidance(discriminator=JUDGE.last(), after_timestep=600, tau_max=0.2),
        "expected after_timestep below tau_max",
    ),
    (
        lambda: dg.Generate(score=SCORE),
        "Generate.score: expected Weights, found a TrainScore; TrainScore is a step; name its weights: "
        ".last(), .epoch(n), .best(...)",
    ),
    (lambda: dg.Generate(score=FILE), "Pretrained is a step; name its weights: .weights()"),
    (
        lambda: dg.Generate(score=FAKES[:5]),
        "Generate.score: expected Weights, found a Slice; weights are .last()",
    ),
    (lambda: dg.Generate(score=FAKES), "Generate.score: expected Weights, found a Generate"),
    (lambda: dg.Generate(score="edm"), "expected Weights, found 'edm'"),
    (lambda: dg.Generate(), "Generate.score: expected a value, found none; give score=..."),
    (lambda: dg.Generate(score=SCORE.last(), sampler=dg.Heun), "found the class Heun (call it: Heun(...))"),
    (
        lambda: dg.Generate(score=SCORE.last(), seeding="conter"),
        "Generate.seeding: expected 'counter' or 'edm', found 'conter'; did you mean counter?",
    ),
    (
        lambda: dg.Generate(score=SCORE.last(), guidance=(JUDGE.last(),)),
        "Generate.guidance[0]: expected DiscriminatorGuidance or ClassifierGuidance or NetworkGuidance or "
        "EpsilonScaling or ClassifierFree, found a Weights",
    ),
    (
        lambda: dg.Generate(score=SCORE.last(), guidance=dg.ClassifierFree()),
        "Generate.guidance: expected a tuple, found a ClassifierFree; write (x,) for one",
    ),
    (
        lambda: dg.DiscriminatorGuidance(discriminator=JUDGE.last(), weight="x"),
        "DiscriminatorGuidance.weight: expected a number or Switch, found 'x'",
    ),
    (
        lambda: dg.TrainScore(real=REAL, network=dg.SongUNet()),
        "TrainScore.real: expected Slice, found an ImportImages; ImportImages is a step; name its samples: "
        "[start:stop] or .all()",
    ),
    (
        lambda: dg.Evaluate(**EVALUATION | {"arms": {"plain": FAKES[:32]}}),
        "Evaluate.arms.plain: expected a tuple, found a Slice",
    ),
    (
        lambda: dg.Evaluate(**EVALUATION | {"arms": {"plain": (FAKES,)}}),
        "Evaluate.arms.plain[0]: expected Slice, found a Generate",
    ),
    (
        lambda: dg.Evaluate(**EVALUATION | {"floor": FAKES}),
        "Evaluate.floor: expected Slice or ImageSet, found a Generate",
    ),
    (lambda: FAKES[10:5], "expected a slice with start < stop, found [10:5] of generate"),
    (
        lambda: FAKES[:-5],
        "expected a slice counted from the first sample, as in step[:1000], found generate[:-5]",
    ),
    (
        lambda: FAKES[5],
        "expected a slice with an end, as in step[:1000] or step[1000:2000], found generate[5]",
    ),
    (lambda: dg.official("edm-cifar10-32x32-uncond"), "did you mean edm-cifar10-32x32-uncond-v"),
    (lambda: dg.reference("fid-cifar10"), "did you mean fid-cifar10-32x32?"),
    (lambda: dg.edm_gpp("cifar10", JUDGE.last()), "did you mean cifar10-cond?"),
    (lambda: dg.Hune(), "AttributeError: module 'dgflow' has no attribute 'Hune'; did you mean Heun?"),
    (lambda: {}["missing"], "KeyError: 'missing'"),
    (lambda: os.environ["DGFLOW_NO_SUCH_NAME"], "KeyError: 'DGFLOW_NO_SUCH_NAME'"),
    (lambda: SCORE.weights(), "no attribute 'weights'; name its weights: .last(), .epoch(n), .best(...)"),
    (lambda: FILE.last(), "no attribute 'last'; name its weights: .weights()"),
    (lambda: dg.Generate(score=SCORE.last(), sampler="heun"), "samplers are written as Heun(steps=18)"),
    (lambda: dg.Generate(score=SCORE.last, sampler=dg.Heun()), "found the function TrainStep.last (call it"),
    (lambda: dg.official(3), "found 3"),
    (lambda: SCORE.epoch("3"), "TypeError: '<=' not supported between instances of 'int' and 'str' (in ep"),
    (
        lambda: SCORE.best("held_out_los"),
        "expected a measurement of train-score whose lowest value is best, held_out_loss or "
        "held_out_weighted_loss, found 'held_out_los'; did you mean held_out_loss?",
    ),
    (lambda: JUDGE.best("held_out_accuracy"), "expected a measurement of train-classifier whose lowest"),
]


@pytest.mark.parametrize(("mistake", "words"), FIELDS, ids=[words[:50] for _, words in FIELDS])
def test_a_mistake_in_a_field_names_class_and_field_and_the_line_of_the_recipe(
    mistake, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    found = message(lambda: mistake(), capsys)
    assert words in found
    line = mistake.__code__.co_firstlineno
    assert found.startswith(f"{Path(__file__).resolve()}:{line}: ")
    assert list(tmp_path.iterdir()) == []


RETURNED = [
    (None, "expected workflow to return a step, found None; end it with `return dg.Evaluate(...)`"),
    ([FAKES[:3]], "found a list of a Slice; return one step: several arms go into one Evaluate"),
    (dg.Evaluate, "found the class Evaluate (call it: Evaluate(...))"),
    (
        FAKES,
        "expected workflow to return samples of Generate, found the step; name its samples: [start:stop]",
    ),
    (dg.Heun(), "found a Heun"),
    (7, "found 7"),
]


@pytest.mark.parametrize(("value", "words"), RETURNED, ids=[words[:40] for _, words in RETURNED])
def test_what_a_recipe_returns_wrongly_has_a_plain_message(value, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def workflow():
        return value

    found = message(workflow, capsys)
    assert words in found
    assert re.match(rf"{re.escape(str(Path(__file__).resolve()))}:\d+: ", found)


def test_the_file_is_named_from_the_current_folder(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parent)
    assert message(lambda: dg.Heun(step=1), capsys).startswith("test_recipe_mistakes.py:")


def test_an_unknown_command_suggests_the_nearest(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["digits.py", "pln"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        dg.main(tiny.workflow)
    assert ended.value.code == 2 and "Did you mean 'plan'?" in capsys.readouterr().err


def test_every_field_that_is_refused_is_one_that_the_class_shows():
    """The names in the message are the parameters of the class."""
    assert set(inspect.signature(dg.Heun).parameters) == set(dg.Heun.model_fields)


def test_a_command_behind_its_options_is_told_with_the_right_order(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["digits.py", "--root", "runs/x", "plan"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        dg.main(tiny.workflow)
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "found 'plan' after them" in printed and "plan --root runs/x`" in printed
    assert list(tmp_path.iterdir()) == []


def test_the_help_of_a_recipe_keeps_the_lines_of_an_indented_list():
    text = "First.\nSecond.\n\nCommands:\n  one   two\n  three four"
    assert as_written(text) == "First.\nSecond.\n\n\b\nCommands:\n  one   two\n  three four"


def test_a_full_disk_is_one_message(capsys):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert guarded(full) == 1
    assert capsys.readouterr().err == "error: could not write: no space left on device; free some space\n"


def test_the_packages_own_error_keeps_its_traceback(monkeypatch):
    file = train_step.__file__
    code = compile("def last(self):\n    raise RuntimeError('of the package')", file, "exec")
    room: dict[str, Any] = {}
    exec(code, room)
    monkeypatch.setattr(train_step.TrainStep, "last", room["last"])
    with pytest.raises(RuntimeError, match="of the package"):
        built(lambda: SCORE.last(), {})


def test_a_plan_of_one_step_counts_one_step(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert guarded(lambda: application(FILE.weights, "one")(args=["plan"], standalone_mode=False)) == 0
    assert "total  1 step " in capsys.readouterr().out
