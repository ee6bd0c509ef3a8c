"""What a command says when it cannot do what it was asked, and the exit status that goes with it."""

import json
import sys
from collections.abc import Callable
from typing import Any

import typer
from pydantic import ValidationError

from dgflow.store.objects import StoreError
from dgflow.store.receipts import CorruptObject, StepMismatch

INTERRUPTED = 130  # exit status of a program that Ctrl-C ended


def print_json(value: Any) -> None:
    print(json.dumps(value, allow_nan=False))


def guarded(call: Callable[[], Any]) -> int:
    """Errors that a person can act on become one message; others keep their traceback."""
    from typer.exceptions import TyperException

    from dgflow.engine.execute import StepFailed

    try:
        status = int(call() or 0)
        if status == INTERRUPTED:  # what Typer makes of Ctrl-C
            raise KeyboardInterrupt
        return status
    except typer.Exit as stop:
        return stop.exit_code
    except TyperException as error:  # an option that is unknown, or a value of the wrong type
        error.show()  # pyright: ignore[reportAttributeAccessIssue] (what Typer raises has it, its public base class does not declare it)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _said(
            "interrupted; what was committed stays, the same command goes on from there", INTERRUPTED
        )
    except ValidationError as error:
        lines = [
            f"{'.'.join(map(str, part['loc']))}: {part['msg'].removeprefix('Value error, ')}".removeprefix(
                ": "
            )
            for part in error.errors()
        ]
        return _said("; ".join(lines), 1)
    except (ValueError, FloatingPointError, StepFailed, StoreError, CorruptObject, StepMismatch) as error:
        return _said(str(error), 1)
    except OSError as error:
        if isinstance(error.filename, str):  # of a file that was named: its rights, a full disk
            reason = (error.strerror or str(error)).lower()
            return _said(
                f"could not read or write {error.filename}: {reason}; check the path, the rights and the "
                "free space",
                1,
            )
        if isinstance(error, FileNotFoundError):
            return _said(str(error), 1)
        raise


def _said(message: str, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
