"""Publish to a repository of the Hugging Face hub: read its content, and commit all changes at once.

This needs the package huggingface_hub and uses its configuration: HF_TOKEN or `hf auth login`, HF_ENDPOINT.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dgflow.extras import require
from dgflow.store.objects import StoreError

T = TypeVar("T")

_NAME = re.compile(r"hf:(?P<repo>[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)")
_LEFT = (".gitattributes", ".gitignore")  # files of the hub or the user that a commit keeps
_LARGEST = 2**26  # maximum bytes of a marker
_REMEDIES = {
    401: "the token is not valid: run `hf auth login`, or set HF_TOKEN",
    403: "use a token with write access to this user or organisation, or another name",
    412: "somebody else has changed the repository meanwhile: check it, and run again",
    404: "there is no such user or organisation, or the token has no access to it: check the name",
}


@dataclass(frozen=True)
class Committed:
    """The result of a commit: its URL and id. `changed` is False if nothing was new, so that no commit was
    made."""

    url: str
    commit: str
    changed: bool


class Repository:
    """A repository `hf:user/name`, of type "model" or "dataset".

    Raises:
        ValueError: the name has another form, or the package or a token is missing.
    """

    def __init__(self, target: str, hub_type: str) -> None:
        match = _NAME.fullmatch(target)
        if not match:
            raise ValueError(f"expected hf:user/name, found {target!r}")
        require("huggingface_hub", "publishing on the hub")
        from huggingface_hub import HfApi, get_token

        if get_token() is None:
            raise ValueError(
                "expected a token of the Hugging Face hub that may write, found none: run `hf auth login`, "
                "or set HF_TOKEN"
            )
        self.target, self.repo, self.hub_type = target, match["repo"], hub_type
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))

    def files(self) -> list[str] | None:
        """The names of the repository's files; None if the repository does not exist or the token has no
        access to it."""
        from huggingface_hub.errors import RepositoryNotFoundError

        def listed() -> list[str] | None:
            try:
                return self._api.list_repo_files(self.repo, repo_type=self.hub_type)
            except RepositoryNotFoundError as error:
                if error.response.status_code == 401:  # also for an invalid token
                    raise
                return None

        return self._asked("look at", listed)

    def published(self, marker: str) -> Mapping[str, Any] | None:
        """The content of the file `marker`, which names the published step. None if it cannot be read."""

        def read() -> Mapping[str, Any] | None:
            path = Path(self._api.hf_hub_download(self.repo, marker, repo_type=self.hub_type))
            value = json.loads(path.read_bytes()) if path.stat().st_size <= _LARGEST else None
            return value if isinstance(value, dict) else None

        try:
            return self._asked("read", read)
        except ValueError:
            return None

    def check_free(self, marker: str, identity: Mapping[str, Any]) -> None:
        """Raise ValueError if the repository holds anything other than an earlier version of the same
        step.
        """
        files = [name for name in self.files() or () if name not in _LEFT]
        if not files:
            return
        there = self.published(marker) if marker in files else None
        if there is None:
            shown = ", ".join(files[:3])
            raise ValueError(
                f"expected an empty repository, or one that `dgflow publish` wrote, at {self.target}, found "
                f"{len(files)} other files ({shown}); give another name, or --replace to overwrite them"
            )
        if there.get("fingerprint") != identity["fingerprint"]:
            raise ValueError(
                f"expected {identity['step']} at {self.target}, found {there.get('step')}; give another "
                "name, or --replace to publish this one in its place"
            )

    def commit(self, folder: Path, message: str, *, private: bool) -> Committed:
        """Replace the repository's content by that of `folder` in one commit.

        Nothing is committed if nothing differs. If another commit comes in between, an error is raised. An
        existing repository keeps its visibility.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        def send() -> Committed:
            self._api.create_repo(self.repo, repo_type=self.hub_type, private=private or None, exist_ok=True)
            before = self._api.repo_info(self.repo, repo_type=self.hub_type).sha
            new = {
                str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()
            }
            there = self._api.list_repo_files(self.repo, repo_type=self.hub_type, revision=before)
            operations = [
                *(CommitOperationAdd(name, path) for name, path in new.items()),
                *(CommitOperationDelete(name) for name in there if name not in new and name not in _LEFT),
            ]
            with _no_note_of_empty_commits():
                done = self._api.create_commit(
                    self.repo,
                    operations,
                    commit_message=message,
                    repo_type=self.hub_type,
                    parent_commit=before,
                )
            return Committed(done.repo_url.url if done.repo_url else "", done.oid, done.oid != before)

        return self._asked("write", send)

    def _asked(self, verb: str, ask: Callable[[], T]) -> T:
        """Call the hub. Raises ValueError if it refuses, and StoreError if it does not answer."""
        try:
            return ask()
        except Exception as error:  # errors of the package and its client share no base class
            raise self._failure(verb, error) from error

    def _failure(self, verb: str, error: BaseException) -> Exception:
        from huggingface_hub.errors import HfHubHTTPError

        reply = error
        while reply.__cause__ is not None and not isinstance(reply, HfHubHTTPError):
            reply = reply.__cause__
        if not isinstance(reply, HfHubHTTPError):
            if isinstance(error, ValueError):
                return error
            found = f"could not {verb} {self.target}: {type(reply).__name__}: {_printable(str(reply))}"
            return StoreError(f"{found}; check this host's network, and run again")
        status, said = reply.response.status_code, _printable(reply.server_message or "")
        found = f"could not {verb} {self.target}: the hub answers {status}{f' ({said})' if said else ''}"
        if status >= 500 or status == 429:
            return StoreError(f"{found}; try again later")
        return ValueError(f"{found}; {_REMEDIES.get(status, 'see the answer of the hub')}")


@contextlib.contextmanager
def _no_note_of_empty_commits() -> Iterator[None]:
    """Suppress the package's warning about an empty commit, which `Committed.changed` reports."""
    logger = logging.getLogger("huggingface_hub.hf_api")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _printable(text: str) -> str:
    """The first line of an external text, without terminal control characters."""
    return re.sub(r"[^ -~]", "?", (text.strip().splitlines() or [""])[0])[:200]
