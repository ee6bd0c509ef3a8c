"""Find the sealed slice that an address, `ROOT/NAME[start:stop]`, names.

The slice has a manifest and is the only one that the address can mean; anything else raises a ValueError that
lists the available slices.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.receipts import Manifest, parse_record
from dgflow.store.step_store import StepStore, read_step

# A name consists of the characters of a step's folder, so a message with it never repeats a secret.
_ADDRESS = re.compile(r"((?P<root>.+?)/+)?(?P<name>[a-z0-9-]+)/*(\[(?P<start>\d*):(?P<stop>\d+)\])?")
_RANGE = re.compile(r"\[[^/\[\]]*\]$")
_SLICE = re.compile(r"\[\d*:\d+\]$")
SHOWN = 12  # steps that a message lists
_STEP = re.compile(r"(?P<kind>[a-z0-9]+(-[a-z0-9]+)*)-[0-9a-f]{12}")
_MANIFEST = re.compile(r"(?P<start>\d+)-(?P<stop>\d+)-(?P<inputs>[0-9a-f]{16})\.json")
ROOT_FORMAT = 1
ROOT_MARK = json.dumps({"dgflow_root": ROOT_FORMAT}).encode()
"""The content of `dgflow.json`, which marks a root."""

_FORM = "ROOT/STEP or ROOT/STEP[start:stop], such as runs/digits/generate-3fa9[0:5000]"


@dataclass(frozen=True)
class Sealed:
    """Samples `start` to `stop` (exclusive) of a step, within a slice of it that is sealed."""

    step_store: StepStore
    manifest: Manifest  # manifest of the sealed slice, which may hold more samples
    start: int
    stop: int
    document: dict[str, Any]  # content of `step.json`: kind, schema_version, fields

    @property
    def digest(self) -> str:
        """The digest that a manifest of exactly these samples has, even if a longer slice was sealed."""
        whole = self.manifest
        entries = tuple(each for each in whole.entries if each.start < self.stop and each.stop > self.start)
        return Manifest(
            start=self.start,
            stop=self.stop,
            inputs=whole.inputs,
            inputs_sha256=whole.inputs_sha256,
            entries=entries,
        ).digest


def names_range(address: str) -> bool:
    """True if the text ends in brackets: an address, unless a file or folder has that name."""
    return _RANGE.search(address) is not None


def is_slice(address: str) -> bool:
    """True if the text ends in `[start:stop]`."""
    return _SLICE.search(address) is not None


def is_step_name(name: str) -> bool:
    """True if a folder in a root has the name of a step."""
    return _STEP.fullmatch(name) is not None


def is_root(url: str) -> bool:
    """True if a root is at this url. Raises the errors of `open_store`."""
    return open_store(url).size("dgflow.json") is not None


def check_format(store: ObjectStore) -> None:
    """Raise ValueError for a root of another version of dgflow."""
    if (mark := store.get("dgflow.json")) != ROOT_MARK:
        raise ValueError(
            f"expected a root of format {ROOT_FORMAT} at {store.url}, found {mark[:80]!r}; "
            "use another root, or the version of dgflow that wrote it"
        )


def find_slice(address: str) -> Sealed:
    """Find the samples at `ROOT/NAME[start:stop]`; without a range, the longest sealed slice.

    ROOT is a url of `open_store` that holds `dgflow.json`; NAME is a step's folder or a unique prefix of one.

    Raises:
        ValueError: no such root, step or sealed slice, or more than one; the message lists what is there.
        CorruptObject: a record that does not parse.
        StoreError: the root cannot be reached.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise ValueError(f"expected the address of a step's samples, {_FORM}, found another form")
    store = open_store(match["root"] or ".")
    check_root(store)
    name = step_name(store, match["name"])
    recorded = read_step(store, name)
    if recorded is None:
        raise ValueError(f"expected {name}/step.json in {store.url}, found none; run the recipe again")
    step_store = StepStore(store, name.rpartition("-")[0], recorded["fingerprint"])
    wanted = (int(match["start"] or 0), int(match["stop"])) if match["stop"] else None
    if wanted and wanted[0] >= wanted[1]:
        raise ValueError(f"expected a range with start < stop, found [{wanted[0]}:{wanted[1]}] of {name}")
    manifest = _choose(step_store, wanted)
    start, stop = wanted or (manifest.start, manifest.stop)
    return Sealed(step_store, manifest, start, stop, recorded["document"])


def step_names(store: ObjectStore) -> list[str]:
    """List the folders of the steps in a root, sorted."""
    return steps_among(store.names())


def steps_among(names: Iterable[str]) -> list[str]:
    """Select the names in a root that are folders of steps."""
    return [name for name in names if _STEP.fullmatch(name)]


def check_root(store: ObjectStore) -> None:
    """Raise ValueError if the root of an address is not a dgflow root."""
    if store.size("dgflow.json") is None:
        raise ValueError(
            f"expected a dgflow root at {store.url}, found no dgflow.json there; an address is {_FORM}"
        )


def split_address(address: str) -> tuple[str, str]:
    """The root and the name in the address of a step. Raises ValueError for another form."""
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise ValueError(f"expected the address of a step, {_FORM}, found another form")
    return match["root"] or ".", match["name"]


def step_name(store: ObjectStore, name: str) -> str:
    """Find the only step in a root whose name begins with `name`.

    Raises ValueError, which lists the steps of the root, if there is none or more than one.
    """
    names = step_names(store)
    fitting = [name] if name in names else [each for each in names if each.startswith(name)]
    if len(fitting) == 1:
        return fitting[0]
    shown = fitting or [each for each in names if each.partition("-")[0] == name.partition("-")[0]] or names
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    listed = ", ".join(shown[:SHOWN]) + more
    ambiguous = f"{len(fitting)} of that prefix: {listed}; give more of its name"
    found = ambiguous if fitting else f"the steps {listed}; give one of these" if names else "no steps"
    raise ValueError(f"expected one step in {store.url} whose name begins with {name!r}, found {found}")


def _choose(step_store: StepStore, wanted: tuple[int, int] | None) -> Manifest:
    """Choose the manifest that holds the range; without a range, the longest one."""
    manifests = sealed_slices(step_store)
    where = f"{step_store.name} in {step_store.store.url}"
    if wanted is None:
        fitting, asked = manifests, "one sealed slice"
    else:
        fitting = [each for each in manifests if each.start <= wanted[0] and wanted[1] <= each.stop]
        asked = f"a sealed slice that holds [{wanted[0]}:{wanted[1]}]"
    if not fitting:
        shards = len(step_store.committed("shards"))
        available = f"the sealed slices {_listed(manifests)}" if manifests else "none"
        raise ValueError(
            f"expected {asked} of {where}, found {available} ({shards:,} shards are done);"
            " run the recipe that uses these samples, until it is done"
        )
    if len({each.inputs_sha256 for each in fitting}) > 1:
        raise ValueError(
            f"expected {asked} of {where}, found several, made from different inputs: "
            f"{_listed(fitting, inputs=True)}; give a range that only one of them holds, or delete the "
            f"outdated manifests from {step_store.name}/manifests"
        )
    longest = max(each.stop - each.start for each in fitting)
    best = [each for each in fitting if each.stop - each.start == longest]
    if wanted is None and len(best) > 1:
        raise ValueError(
            f"expected {asked} of {where}, found several of the same length: {_listed(best)}; add one of "
            "them, [start:stop], to the address"
        )
    return best[0]


def sealed_slices(step_store: StepStore) -> list[Manifest]:
    """Read the manifests of a step, sorted by range. Raises CorruptObject for one that does not parse."""
    folder, store = f"{step_store.name}/manifests", step_store.store
    keys = [entry.key for entry in store.list(folder)]
    keys = [key for key in keys if _MANIFEST.fullmatch(key.removeprefix(f"{folder}/"))]
    texts = zip(keys, store.get_many(keys), strict=True)
    manifests = [parse_record(Manifest, data, key, store.url) for key, data in texts]
    return sorted(manifests, key=lambda each: (each.start, each.stop, each.inputs_sha256))


def _listed(manifests: list[Manifest], inputs: bool = False) -> str:
    return ", ".join(
        f"[{each.start}:{each.stop}]{f' from {each.inputs_sha256[:16]}' if inputs else ''}"
        for each in manifests
    )
