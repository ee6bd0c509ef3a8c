"""DiT's files: released ones are flat state dicts, those of its training have `model`, `ema`, `opt` and
`args`."""

from __future__ import annotations

from dgflow.weights.torch_file import Namespace, load_torch
from dgflow.weights.weight_file import File, WeightFile, called, check_state_dict, plain_items


def read_dit(file: File, *, source: str | None = None) -> WeightFile:
    """The averaged weights (`ema`) of a training file, with its `args` as settings, or those of a flat file.

    Raises:
        ValueError: something else, a global that is not understood, damaged or cut short.
    """
    name = called(file, source)
    found = load_torch(file, name)
    if not isinstance(found, dict) or "ema" not in found:
        return WeightFile(check_state_dict(found, name), {})
    args = dict.get(found, "args")
    settings = {"args": plain_items(vars(args))} if isinstance(args, Namespace) else {}
    return WeightFile(check_state_dict(found["ema"], name, "'ema'"), settings)
