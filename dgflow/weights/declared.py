"""Compare the settings that a weight file declares with those of the recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from dgflow.weights.sources import Source, neighbour
from dgflow.weights.weight_file import short

SECTIONS = (
    *("hyper_parameters", "hparams", "args", "config", "model_config", "model_args", "model_kwargs"),
    *("model", "data", "network", "network_kwargs", "unet_config", "params", "options"),
)
"""Names under which trainers nest settings."""
_BESIDE = ("config.json", "training_options.json", "args.json", "hparams.yaml", "config.yaml", "config.yml")
_CLOSE = 1e-6
_SHOWN = 6


class Said(NamedTuple):
    """A setting of the recipe.

    Attributes:
        value: the value; None if the recipe leaves it open.
        write: the field that sets it; None for a fixed property of the network.
        close: relative difference that counts as equal.
    """

    value: Any
    write: str | None
    close: float = _CLOSE


def check_declared(declared: Mapping[str, Any], said: Mapping[str, Said], source: str) -> None:
    """Raise ValueError, with both values and the remedy, if settings in a file contradict those of the
    recipe."""
    other = [name for name, value in declared.items() if name in said and not _same(value, said[name], name)]
    other.sort(key=lambda name: said[name].write is None)  # settable fields first: they may determine others
    differences = [
        f"{name} is {short(declared[name])} in the file and {short(_plain(said[name].value))} in the recipe"
        f" ({_remedy(said[name].write, declared[name])})"
        for name in other
    ]
    if differences:
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ValueError(
            f"{source}: expected the settings of the recipe, found others declared in the file: "
            f"{'; '.join(differences[:_SHOWN])}{more}. Weights are usable only with the settings that they "
            "were trained with."
        )


def flat(settings: Any) -> dict[str, Any]:
    """Flatten nested settings. Outer settings take precedence over inner ones; JSON texts are decoded."""
    found: dict[str, Any] = {}
    if not isinstance(settings, Mapping):
        return found
    for name, value in settings.items():
        if not isinstance(value, Mapping) and value is not None:
            found[name] = _read(value)
    for name in SECTIONS:
        section = _read(settings.get(name))
        if isinstance(section, Mapping):
            found = flat(section) | found
    return found


def beside(source: Source) -> dict[str, dict[str, Any]]:
    """Return the settings in files beside a weight file, on this host or on S3, by file name."""
    stem = source.file_name.rpartition(".")[0]
    found = {}
    for name in dict.fromkeys((f"{stem}.json", f"{stem}.yaml", f"{stem}.yml", *_BESIDE)):
        data = None if name == source.file_name else neighbour(source, name)
        try:
            text = (data or b"").decode()
            value = json.loads(text) if name.endswith(".json") else _yaml(text)
        except (ValueError, RecursionError):
            continue  # no such file, or an unrelated one with that name
        if isinstance(value, dict):
            found[name] = value
    return found


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _read(value: Any) -> Any:
    """Decode a JSON text; return any other value unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _same(value: Any, said: Said, name: str) -> bool:
    mine = _plain(said.value)
    if mine is None or value is None:
        return True  # not declared, or left open by the recipe
    return _alike(value, mine, said.close, unordered="resolutions" in name)


def _alike(value: Any, mine: Any, close: float, unordered: bool = False) -> bool:
    if isinstance(value, Mapping):
        return True  # a section, whose entries are compared one by one
    if isinstance(value, list | tuple) and isinstance(mine, list):
        pair = (sorted(value, key=repr), sorted(mine, key=repr)) if unordered else (value, mine)
        return len(pair[0]) == len(pair[1]) and all(_alike(a, b, close) for a, b in zip(*pair, strict=True))
    if isinstance(value, bool) or isinstance(mine, bool):
        return value is mine
    if isinstance(value, int | float) and isinstance(mine, int | float):
        return value == mine or math.isclose(value, mine, rel_tol=close)
    return value == mine


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _remedy(write: str | None, value: Any) -> str:
    if write is None:
        return "this network supports no other"
    shown = tuple(value) if isinstance(value, list) else value
    return f"write {write}={short(shown)}"
