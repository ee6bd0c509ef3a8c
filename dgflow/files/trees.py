"""List the files below a local folder, reading each real folder once regardless of the links to it."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from dgflow.files.names import is_shown

_AT_ONCE = 32  # concurrent folder listings: on a network disk each one waits for a reply


class Contents(NamedTuple):
    """The files below a folder, by relative path with `/`; hidden files are left out.

    Attributes:
        sizes: size of each file in bytes, sorted by path.
        unusable: broken links, pipes, sockets and devices.
        again: links to files and folders that are already listed; these are not read again.
        shared: links to a file outside the folder that another link points to as well; each is read.
    """

    sizes: dict[str, int]
    unusable: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()


@dataclass
class _Level:
    """The direct entries of one folder."""

    folders: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)


def contents(root: str) -> Contents:
    """List the files below a folder. A link to a folder outside is followed; a link to one of its own parents
    is not. A file that is reachable both directly and by a link is listed under its direct path.

    Raises OSError if a folder cannot be read.
    """
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="list") as pool:
        walk = _Walk(root, pool)
        walk.visit("", os.path.realpath(root))
        while walk.folder_links:
            links, walk.folder_links = sorted(walk.folder_links), []
            for name in links:
                walk.follow(name)
    shared = walk.look_at_file_links()
    again = tuple(sorted(walk.again))
    return Contents(dict(sorted(walk.sizes.items())), tuple(sorted(walk.unusable)), again, shared)


class _Walk:
    def __init__(self, root: str, pool: ThreadPoolExecutor) -> None:
        self._root, self._pool = root, pool
        self._names: dict[str, str] = {}  # real folder -> path by which it is read
        self.sizes: dict[str, int] = {}
        self.folder_links: list[str] = []
        self._file_links: list[str] = []
        self.unusable: list[str] = []
        self.again: list[str] = []

    def visit(self, name: str, real: str) -> None:
        """Read a real folder and the real folders below it, and collect links."""
        self._names[real] = name
        level = {name: real}
        while level:
            below: dict[str, str] = {}
            for real, found in zip(level.values(), self._pool.map(self._scan, level), strict=True):
                self._add_folders(real, found.folders, below)
                self.sizes |= found.sizes
                self.unusable += found.unusable
                for link in found.links:
                    (self._file_links if link in found.sizes else self.folder_links).append(link)
            level = below

    def _add_folders(self, real: str, folders: list[str], below: dict[str, str]) -> None:
        """Add the folders in a real folder to those to read next."""
        for name in folders:
            place = os.path.join(real, name.rpartition("/")[2])
            if place in self._names:  # already read through a link
                self.again.append(name)
                continue
            self._names[place], below[name] = name, place

    def follow(self, name: str) -> None:
        """Read the folder behind a link, unless it was read already or is a parent of the link."""
        path = os.path.join(self._root, name)
        real, above = os.path.realpath(path), os.path.realpath(os.path.dirname(path))
        if real in self._names or above == real or above.startswith(real.rstrip("/") + "/"):
            self.again.append(name)
        else:
            self.visit(name, real)

    def look_at_file_links(self) -> tuple[str, ...]:
        """Remove links to files that are listed under their own names. Return the other links whose target
        has an earlier link.
        """
        targets: dict[str, list[str]] = {}
        links = set(self._file_links)
        for name in sorted(links):
            real = os.path.realpath(os.path.join(self._root, name))
            folder, _, base = real.rpartition("/")
            direct = "/".join(part for part in (self._names.get(folder, ".."), base) if part)
            # Content-addressed caches store files under names without a suffix.
            if direct in self.sizes and direct not in links and _suffix(direct) == _suffix(name):
                del self.sizes[name]
                self.again.append(name)
            else:
                targets.setdefault(real, []).append(name)
        return tuple(name for names in targets.values() for name in names[1:])

    def _scan(self, folder: str) -> _Level:
        level = _Level()
        with os.scandir(os.path.join(self._root, folder)) as entries:
            for entry in entries:
                if is_shown(entry.name):
                    _add(level, entry, f"{folder}/{entry.name}" if folder else entry.name)
        return level


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _add(level: _Level, entry: os.DirEntry, name: str) -> None:
    link = entry.is_symlink()
    if not link and entry.is_dir():
        level.folders.append(name)
        return
    try:
        facts = entry.stat()
    except OSError:  # a link to a missing file, or to itself
        if not link:
            raise
        level.unusable.append(name)
        return
    if stat.S_ISREG(facts.st_mode):
        level.sizes[name] = facts.st_size
    elif not stat.S_ISDIR(facts.st_mode):
        level.unusable.append(name)
        return
    if link:
        level.links.append(name)
