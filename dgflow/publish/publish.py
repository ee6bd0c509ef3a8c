"""`dgflow publish`: publish a network or generated images of a root."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from dgflow.client.open_root import OpenRoot
from dgflow.client.open_root import open as open_root
from dgflow.files.outputs import new_folder
from dgflow.publish.hub import Repository
from dgflow.publish.lineage import UNKNOWN, licence_of, licences_in_words, steps_behind
from dgflow.publish.network import NetworkFolder
from dgflow.publish.samples import SamplesFolder
from dgflow.specs.step import NetworkStep
from dgflow.store.address import check_root, find_slice, is_slice, split_address
from dgflow.store.open import open_store
from dgflow.testing.smoke_root import is_smoke_run

_log = logging.getLogger(__name__)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Publication:
    """The result of publishing. `commit` and `url` are None for a folder; `changed` is False if the hub
    already had everything."""

    title: str
    target: str
    kind: str
    licence: str
    commit: str | None = None
    url: str | None = None
    changed: bool = True


def publish(
    address: str,
    target: str,
    *,
    epoch: str | None = None,
    licence: str | None = None,
    private: bool = False,
    replace: bool = False,
) -> Publication:
    """Write the step at `address` with its card into a new folder, or a repository of the hub.

    Args:
        address: `ROOT/STEP` for a training, `ROOT/STEP[start:stop]` for generated images.
        target: a folder, local or on S3, or `hf:user/name`.
        epoch: for a training, "last", "best" by held-out loss, or a number. By default the epoch from which
            the root's steps were made, or else the last.
        licence: the hub's name of the licence; by default the licence of the published networks used.
        private: create a new repository as private.
        replace: overwrite the content that another step left there.

    Raises:
        ValueError: the step does not exist or cannot be published, the target holds something else, no
            licence is known, or the hub refuses.
        StoreError: the root or the hub cannot be reached.
    """
    on_hub = target.lower().startswith("hf:")
    root_url, name = split_address(address)
    check_root(open_store(root_url))
    root = open_root(root_url)
    folder = _folder(root, name, address, epoch)
    made_up = is_smoke_run(root.store) or any(each.is_made_up for each in steps_behind(folder.step))
    own = licence_of(folder.bases)
    if licence is not None and own not in (UNKNOWN, licence):
        _log.warning(
            "%s is published as %s, but was made with %s", address, licence, licences_in_words(folder.bases)
        )
    licence = own if licence is None else licence
    if not _LICENCE.fullmatch(licence):
        raise ValueError(
            f"expected the hub's name of a licence, such as mit or cc-by-nc-4.0, found {licence!r}: correct "
            "--licence"
        )
    if not on_hub:
        shown = f"path/to/{target.rstrip('/').rpartition('/')[2]}"
        with new_folder(target) as open_new:
            folder.write(open_new, licence, shown, made_up=made_up)
        return Publication(folder.title, target, folder.hub_type, licence)
    repository = Repository(target, folder.hub_type)
    if made_up:
        raise ValueError(
            f"expected results of a real run for the hub, found the smoke run of {root.url}, whose weights "
            "are random; publish them to a folder instead"
        )
    if licence == UNKNOWN:
        raise ValueError(
            "expected a licence for the hub, found none: give --licence, such as --licence mit. Made with "
            f"{licences_in_words(folder.bases)}"
        )
    if not replace:
        repository.check_free(folder.marker, folder.identity)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "published"
        with new_folder(str(path)) as open_new:
            folder.write(open_new, licence, target)
        done = repository.commit(path, f"{folder.title}, by dgflow publish", private=private)
    return Publication(folder.title, target, folder.hub_type, licence, done.commit, done.url, done.changed)


def _folder(root: OpenRoot, name: str, address: str, epoch: str | None) -> NetworkFolder | SamplesFolder:
    view = root.step(name)
    if view.folder == "shards":
        if epoch is not None:
            raise ValueError(f"expected --epoch with a training, found {view.name}; leave it out")
        return SamplesFolder(root, find_slice(address))
    if not isinstance(view.spec, NetworkStep):
        raise ValueError(f"expected a training or generated images, found {view.name}, which is neither")
    if is_slice(address):
        raise ValueError(f"expected [start:stop] with generated images, found {view.name}; leave it out")
    if epoch not in (None, "last", "best") and not str(epoch).isdecimal():
        raise ValueError(f"expected --epoch last, best or a number, found {epoch!r}")
    return NetworkFolder(root, root.network(name, epoch=epoch))
