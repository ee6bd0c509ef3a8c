"""A recipe's parameters as options: types, help, former names, and what counts as given."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import tiny
from recipe_command import here
from steps.shipped import WORKFLOWS
from typer.testing import CliRunner

from dgflow import Evaluate, options
from dgflow.cli.asked import asked
from dgflow.cli.parameters import documented, recipe_parameters
from dgflow.cli.recipe import application

__all__ = ["here"]

GIVEN: dict[str, Any] = {}


def workflow(
    source: str,
    guidance_weight: Annotated[options.GuidanceWeight, options.Former("weight")] = 1.0,
    seeds: options.Seeds = (3, 4),
    epochs: options.Epochs | None = None,
    epoch: options.Epoch = None,
    tau_min: options.TauMinOrGain | None = None,
) -> Evaluate:
    """A recipe."""
    GIVEN.update(weight=guidance_weight, seeds=seeds, epochs=epochs, epoch=epoch, tau_min=tau_min)
    return tiny.workflow(source)


DEFAULTS = {"weight": 1.0, "seeds": [3, 4], "epochs": None, "epoch": None, "tau_min": None}


def called(folder: Path, *arguments: str, status: int = 0) -> tuple[dict[str, Any], str]:
    """The values that the recipe got, and the output."""
    GIVEN.clear()
    root = str(folder / "root")
    command = [arguments[0], "--source", str(folder / "images.npz"), "--root", root, *arguments[1:]]
    done = CliRunner().invoke(application(workflow, "recipe"), command)
    assert done.exit_code == status, done.output
    return dict(GIVEN), done.output


def test_options_arrive_with_their_types_and_defaults(tmp_path: Path) -> None:
    assert called(tmp_path, "plan")[0] == DEFAULTS
    found, _ = called(tmp_path, "plan", "--guidance-weight", "2", "--seeds", "5", "--epochs", "7")
    assert found == DEFAULTS | {"weight": 2.0, "seeds": [5], "epochs": 7}


@pytest.mark.parametrize(("word", "value"), [("0.25", 0.25), ("gain", "gain"), ("none", None)])
def test_an_option_may_be_a_number_or_a_word(tmp_path: Path, word: str, value: Any) -> None:
    assert called(tmp_path, "plan", "--tau-min", word)[0] == DEFAULTS | {"tau_min": value}


def test_what_is_neither_the_number_nor_the_word_is_refused(tmp_path: Path) -> None:
    _, output = called(tmp_path, "plan", "--tau-min", "gian", status=2)
    words = " ".join(output.replace("│", " ").split())
    assert "'--tau-min': expected a number or gain or none, found 'gian'; did you mean gain?" in words


def test_the_names_that_options_had_before_are_taken_still(tmp_path: Path) -> None:
    found, _ = called(tmp_path, "plan", "--weight", "0.5", "--seed", "8")
    assert found == DEFAULTS | {"weight": 0.5, "seeds": [8]}


def test_help_says_what_no_value_means(tmp_path: Path) -> None:
    words = " ".join(called(tmp_path, "plan", "--help")[1].replace("│", " ").split())
    assert "the discriminator's passes over the real images; by default as published" in words
    assert "by default as published" not in words.partition("--epoch ")[2].partition("--tau-min")[0]


def test_a_default_is_not_told_as_given_in_another_form_of_it() -> None:
    values = {"guidance_weight": 1.0, "seeds": [3, 4], "epochs": None, "epoch": None}
    assert asked(workflow, "recipe", values).changed == ()
    assert asked(workflow, "recipe", values | {"seeds": [3]}).changed == ("seeds",)


@pytest.mark.parametrize(
    ("annotation", "kind", "words", "former"),
    [
        (int, int, (), ()),
        (int | None, int | None, (), ()),
        (Annotated[int, "of it"], int, ("of it",), ()),
        (
            options.Seed | None,
            int | None,
            ("sampling seed of the measured samples; by default as published",),
            (),
        ),
        (Annotated[int | None, "of it"], int | None, ("of it",), ()),
        (Annotated[Annotated[int, "of it"], options.Former("old")], int, ("of it",), ("old",)),
        (Annotated[Sequence[int], "all"], Sequence[int], ("all",), ()),
    ],
)
def test_an_annotation_is_taken_apart(
    annotation: Any, kind: Any, words: tuple[str, ...], former: tuple[str, ...]
) -> None:
    assert documented(annotation) == (kind, words, former)


def test_the_shared_options_all_say_what_they_are() -> None:
    shared = [
        name for name in vars(options) if name[0].isupper() and hasattr(vars(options)[name], "__metadata__")
    ]
    assert len(shared) > 20 and all(documented(vars(options)[name]).words for name in shared)
    assert [each.name for each in recipe_parameters(workflow)] == list(inspect.signature(workflow).parameters)


@pytest.mark.parametrize("name", sorted(path.name for path in WORKFLOWS.glob("*.py")))
def test_no_option_of_a_shipped_recipe_is_one_of_a_command(name: str, tmp_path: Path, here: Any) -> None:
    for command in ("run", "plan", "sweep"):
        done = here(command, "--help", recipe=WORKFLOWS / name, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
