"""Run a command line, and turn errors that a user can act on into one message and an exit status."""

import errno
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import typer
from pydantic import ValidationError
from typer.exceptions import TyperException

from dgflow.cli.characters import degrade
from dgflow.engine.execute import StepFailed
from dgflow.extras import explained
from dgflow.runtime.terminal import tell
from dgflow.specs.mistakes import described
from dgflow.store.objects import StoreError
from dgflow.store.receipts import CorruptObject, StepMismatch

INTERRUPTED = 130  # exit status after Ctrl-C
SETTINGS: dict[str, Any] = {
    "rich_markup_mode": "rich" if sys.stdout.isatty() else None,
    "add_completion": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
"""Settings of every Typer application here."""


def print_json(value: Any) -> None:
    print(json.dumps(value, allow_nan=False))


def run(application: Callable[[], typer.Typer], arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the application that `application()` returns, by default with the process's arguments, and exit."""
    degrade()
    if os.environ.get("HOME") == "":
        del os.environ["HOME"]  # an empty HOME means the working directory, an unset one is looked up
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    sys.exit(guarded(lambda: application()(args=arguments, standalone_mode=False)))


def guarded(call: Callable[[], Any]) -> int:
    """Call `call` and return its exit status. An error that a user can act on is printed as one message;
    other errors are raised.
    """
    try:
        status = int(call() or 0)
        if status == INTERRUPTED:  # Typer's status for Ctrl-C
            raise KeyboardInterrupt
        return status
    except typer.Exit as stop:
        return stop.exit_code
    except TyperException as error:  # an unknown option, or a value of the wrong type
        error.show()  # pyright: ignore[reportAttributeAccessIssue] (its public base class does not declare it)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        message = "interrupted; committed parts are kept, and the same command continues from there"
        return _failed(message, INTERRUPTED)
    except ValidationError as error:
        return _failed(described(error))
    except (ValueError, FloatingPointError, StepFailed, StoreError, CorruptObject, StepMismatch) as error:
        return _failed(str(error))
    except ModuleNotFoundError as error:
        if (remedy := explained(error)) is None:
            raise
        return _failed(remedy)
    except OSError as error:
        if isinstance(error.filename, str):  # a named file: permissions, or a full disk
            reason = (error.strerror or str(error)).lower()
            return _failed(
                f"could not read or write {error.filename}: {reason}; check the path, the permissions and "
                "the free space"
            )
        if isinstance(error, FileNotFoundError):
            return _failed(str(error))
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # standard output, or a file without a name
            return _failed(f"could not write: {os.strerror(error.errno).lower()}; free some space")
        raise


def _failed(message: str, status: int = 1) -> int:
    for line in f"error: {message}".splitlines():
        tell(line)
    return status
