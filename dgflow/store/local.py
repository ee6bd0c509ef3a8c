"""Objects as files below a local folder; safe for concurrent threads and processes, and after crashes.

An object is written to a temporary file in the same tree, flushed to disk, and only then given its name, by
`os.link` (which fails where the name exists) or `os.replace`. A writer that is killed leaves a file in
`.tmp`, which no listing shows. The file system must support hard links.
"""

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from dgflow.store.objects import (
    Entry,
    StoreDenied,
    StoreError,
    StoreRefusal,
    check_key,
    check_new,
    store_error,
    under,
)

_TEMPORARY = ".tmp"
_ABANDONED = 7 * 86_400.0  # seconds after which a temporary file cannot belong to a living writer

_FREE = "free some space there, or use another root, and run again: nothing is lost"
_FILE = ("the root, or a parent of it, is a file and not a folder", "use a folder as the root")
_EXPLAINED = {
    errno.ENOSPC: ("the disk is full", _FREE),
    errno.EDQUOT: ("the disk quota is used up", _FREE),
    errno.EROFS: ("the file system is read-only", "use a root that can be written to"),
    errno.EACCES: ("permission denied", "give this user access to it, or use another root"),
    errno.ENOTDIR: _FILE,
    errno.EEXIST: _FILE,
    errno.EISDIR: ("a folder has the object's name", "use a root that nothing else writes to"),
    errno.ENAMETOOLONG: ("the path is too long", "use a root with a shorter path"),
}
_NO_LINKS = (
    "the file system does not support hard links",
    "use a root on a file system that does, or s3://bucket/prefix",
)


class LocalStore:
    """Objects below one folder, which the first write creates. A key is the relative path of its file."""

    shared = False

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Make `root` absolute, because workers may have another working directory.

        Raises StoreError if `root` is a file or lies below one.
        """
        self.root = Path(os.path.abspath(os.path.expanduser(root)))
        self.url = self.root.as_uri()
        self._swept = False
        with self._errors("use it as a root"):
            self._check_root()

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return LocalStore, (str(self.root),)

    def get(self, key: str) -> bytes:
        check_key(key)
        with self._errors(f"read {key}"):
            try:
                return (self.root / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._check_root()
        raise FileNotFoundError(f"no object {key!r} in {self.url}")

    def get_many(self, keys: Sequence[str]) -> list[bytes]:
        return [self.get(key) for key in keys]

    def put(self, key: str, data: bytes) -> None:
        check_key(key)
        with self._errors(f"write {key}"), self._written(key, data) as temporary:
            os.replace(temporary, self.root / key)
            _flush_folder((self.root / key).parent)

    def create(self, key: str, data: bytes) -> bool:
        check_new(key, data)
        with self._errors(f"create {key}"), self._written(key, data) as temporary:
            try:
                os.link(temporary, self.root / key)
            except FileExistsError:
                # NFS repeats a link request whose reply was lost, and the repetition fails: a link count of
                # two shows that the first one succeeded.
                return os.stat(temporary).st_nlink == 2
            except OSError as error:
                if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise store_error(f"create {key}", self.url, *_NO_LINKS, kind=StoreRefusal) from error
                raise
            _flush_folder((self.root / key).parent)
            return True

    def size(self, key: str) -> int | None:
        check_key(key)
        with self._errors(f"look up {key}"):
            try:
                status = os.stat(self.root / key)
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()
                return None
            return status.st_size if stat.S_ISREG(status.st_mode) else None

    def list(self, prefix: str) -> list[Entry]:
        folder = self.root / under(prefix)
        with self._errors(f"list {prefix or 'all'}"):
            self._check_root()
            return sorted(_files(folder, under(prefix)), key=lambda entry: entry.key)

    def names(self) -> "list[str]":  # quoted: `list` is a method here
        with self._errors("list the root"):
            try:
                return sorted(item.name for item in os.scandir(self.root) if not item.name.startswith("."))
            except FileNotFoundError:
                return []

    def delete(self, key: str) -> None:
        check_key(key)
        with self._errors(f"delete {key}"):
            try:
                os.unlink(self.root / key)
            except (FileNotFoundError, NotADirectoryError):
                self._check_root()

    def remove_empty(self, prefix: str) -> None:
        """Remove the folder of the objects below `prefix`, and the folders in it, if they are empty."""
        for folder, _, _ in os.walk(self.root / check_key(prefix), topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    def now(self) -> float:
        """The time by the clock of the file system, which on a network disk is the server's clock.

        Read from the modification time of a new file. This host's clock if the root does not exist or is not
        writable.
        """
        if not self.root.is_dir():
            return time.time()
        temporary = self.root / _TEMPORARY / f"{os.getpid()}-{uuid.uuid4().hex}"
        with self._errors("read the time"):
            try:
                _make_folder(temporary.parent)
                with open(temporary, "xb") as file:
                    file.write(b"\0")  # writing sets the server's time, opening may not
                    file.flush()
                    return os.stat(temporary).st_mtime
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT):
                    return time.time()
                raise
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    @contextlib.contextmanager
    def _written(self, key: str, data: bytes) -> Iterator[Path]:
        """A context with a temporary file of these bytes, flushed to disk, and the folder for `key`."""
        folder = self.root / _TEMPORARY
        _make_folder(folder)
        _make_folder((self.root / key).parent)
        self._sweep(folder)
        temporary = folder / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            # Not tempfile.mkstemp: only its user may read its files, but a group may share a root.
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666
            )
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _sweep(self, folder: Path) -> None:
        """Remove temporary files older than a week, once per instance: their writers are dead."""
        if not self._swept:
            self._swept = True
            with contextlib.suppress(OSError):
                for entry in os.scandir(folder):
                    if entry.stat().st_mtime < time.time() - _ABANDONED:
                        os.unlink(entry.path)

    @contextlib.contextmanager
    def _errors(self, attempted: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            if (explained := _EXPLAINED.get(error.errno or 0)) is not None:
                kind = StoreDenied if error.errno in (errno.EROFS, errno.EACCES) else StoreRefusal
                raise store_error(attempted, self.url, *explained, kind=kind) from error
            remedy = "check that the root can be read and written, and run again"
            raise store_error(attempted, self.url, error.strerror or str(error), remedy) from error

    def _check_root(self) -> None:
        """Raise NotADirectoryError if the root is a file or lies below one.

        Otherwise a wrong root would look like a missing object.
        """
        if self.root.is_dir():
            return
        for path in (self.root, *self.root.parents):
            if path.exists():
                if not path.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
                return


def _files(folder: Path, prefix: str) -> Iterator[Entry]:
    """List every file below `folder`, except files that disappear during the listing."""
    try:
        items = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for item in items:
        if item.name.startswith("."):
            continue
        if item.is_dir():
            yield from _files(folder / item.name, f"{prefix}{item.name}/")
        else:
            with contextlib.suppress(FileNotFoundError):
                status = item.stat()
                yield Entry(f"{prefix}{item.name}", status.st_size, status.st_mtime)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, flushing each new name to disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _flush_folder(folder.parent)


def _flush_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a new name in it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
