"""Reads committed weights. Large weights are fetched once per host: the first process that needs them writes
a file, and all processes map the file, so that they share its pages.

The files are in `dgflow-UID/weights` in TMPDIR (by default /tmp), a folder of this user alone on a disk of
this host. A file is named by the host's boot id and the sha256 of its content, which the store verified when
the weights were fetched. One process at a time writes a file under another name and renames it. Writing does
not wait for the disk: after a crash the host has another boot id, so a file that the crash truncated is never
used. The most recently used files are kept, `MOST_BYTES` in all. They may be removed at any time.

Without a file (a full disk, a folder of another user), every process uses the weights that it fetched itself.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import tempfile
import uuid
from pathlib import Path

from torch import Tensor

from dgflow.store.objects import StoreError
from dgflow.store.receipts import Receipt
from dgflow.store.step_store import StepStore
from dgflow.weights.safetensors_file import read_safetensors
from dgflow.weights.scratch import alone
from dgflow.weights.tensors import load_weights

LEAST_BYTES = 16 * 2**20
"""Weights below this size are fetched by every process, in 0.2 s at 90 MB/s."""
MOST_BYTES = 20 * 10**9
"""Maximum size of all files in the folder."""
FREE_SHARE = 0.1
"""Minimum share of the disk that the files leave free."""

_log = logging.getLogger(__name__)


def committed_weights(step_store: StepStore, receipt: Receipt) -> dict[str, Tensor]:
    """The tensors of committed weights by name, on the CPU. They may be mapped from a file; changes to them
    affect neither the file nor other processes.

    Raises:
        CorruptObject: the data is not what was committed.
        StoreError: the data cannot be read.
        ValueError: the data is not a safetensors file.
    """
    if not step_store.store.shared or receipt.bytes < LEAST_BYTES:
        return load_weights(step_store.read(receipt))
    with contextlib.ExitStack() as held:
        try:
            folder = _own_folder()
            held.enter_context(alone(folder, "weights", logging.INFO))
            file = folder / f"{_boot()}-{receipt.sha256}.safetensors"
        except (OSError, StoreError) as error:
            _log.info("%s is fetched by this process alone: %s", receipt.key, error)
            file = None
        if file is not None and _is_whole(file, receipt.bytes):
            with contextlib.suppress(ValueError, OSError):
                return _mapped(file, receipt)
        if file is not None:
            data = step_store.read(receipt)  # other processes wait for this one
            if _written(file, data):
                del data
                return _mapped(file, receipt)
            return load_weights(data)
    return load_weights(step_store.read(receipt))


def _mapped(file: Path, receipt: Receipt) -> dict[str, Tensor]:
    return read_safetensors(file, source=receipt.key).tensors


def _own_folder() -> Path:
    """The folder of the files, created if it is missing. Raises OSError if others can write to it."""
    own = Path(tempfile.gettempdir()) / f"dgflow-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    status = own.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PermissionError(f"expected a folder that only this user can write to at {own}, found another")
    folder = own / "weights"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _boot() -> str:
    """The boot id of the host. Raises OSError if the system has none."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _is_whole(file: Path, size: int) -> bool:
    """True for a file of that size. The file is then marked as most recently used."""
    with contextlib.suppress(OSError):
        status = file.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size == size:
            os.utime(file)
            return True
    return False


def _written(file: Path, data: bytes) -> bool:
    """Write the file if there is room. Returns True if the file was written."""
    temporary = file.with_name(f".{uuid.uuid4().hex}")
    try:
        _make_room(file.parent, len(data))
        temporary.write_bytes(data)
        os.replace(temporary, file)
        return True
    except OSError as error:
        _log.info("%s is not kept for other processes: %s", file.name, error)
        return False
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _make_room(folder: Path, size: int) -> None:
    """Remove the remains of writers that died, and as many of the least recently used files as necessary.

    Raises OSError if there is still no room. The caller holds the lock, so no other process writes. A process
    that has mapped a removed file can still use it.
    """
    for left in folder.glob(".*"):
        left.unlink(missing_ok=True)
    files = sorted(folder.glob("*.safetensors"), key=lambda file: file.lstat().st_mtime, reverse=True)
    while files and not _fits(folder, files, size):
        files.pop().unlink(missing_ok=True)
    if not _fits(folder, files, size):
        raise OSError(errno.ENOSPC, f"{size:,} bytes would fill the disk or pass {MOST_BYTES:,} bytes in all")


def _fits(folder: Path, files: list[Path], size: int) -> bool:
    disk = shutil.disk_usage(folder)
    kept = sum(file.lstat().st_size for file in files)
    return kept + size <= MOST_BYTES and disk.free - size >= FREE_SHARE * disk.total
