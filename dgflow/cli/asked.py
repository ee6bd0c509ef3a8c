"""Describe the command that a user gave, for the record of its run."""

import enum
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from dgflow.store.runs import Asked, without_secrets

GIT_SECONDS = 5.0  # timeout of git, which may have a large work tree on a slow disk


def asked(function: Callable[..., Any], name: str, options: Mapping[str, Any]) -> Asked:
    """Describe the command line of this process, which calls the recipe `name`, a `function`, with these
    options. Does not determine the git commit, see `with_commit`.
    """
    defaults = {key: each.default for key, each in inspect.signature(function).parameters.items()}
    module = sys.modules.get(function.__module__)
    changed = (key for key, value in options.items() if _plain(value) != _plain(defaults.get(key)))
    question = described(name, (module and module.__doc__) or function.__doc__, options, changed)
    return question.model_copy(update={"file": Path(inspect.getfile(function)).name})


def described(name: str, about: str | None, options: Mapping[str, Any], changed: Iterable[str]) -> Asked:
    """Describe the command line of this process for the command `name`, with the description `about`."""
    return Asked(
        recipe=name,
        about=inspect.cleandoc(about or ""),
        options={key: _plain(value) for key, value in options.items()},
        changed=tuple(changed),
        command=without_secrets([Path(sys.argv[0]).name, *sys.argv[1:]]),
    )


def with_commit(asked: Asked, function: Callable[..., Any]) -> Asked:
    """Add the git commit of the file of `function`, if it is in a work tree."""
    return asked.model_copy(update={"commit": _commit(Path(inspect.getfile(function)).parent)})


def _commit(folder: Path) -> str | None:
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, no work tree, or no permission to read it
    return done.stdout.strip() or None


def _plain(value: Any) -> Any:
    """Convert a value to JSON data; other values become text."""
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value - value != 0.0:
        return str(value)  # NaN and infinities
    if isinstance(value, str):
        return without_secrets([value])[0]
    return value if value is None or isinstance(value, bool | int | float) else str(value)
