"""The address of samples in a root, `ROOT/NAME[start:stop]`, and the sealed slice that it names.

Promises that what is found is whole as its manifest says, and is the only slice that the address can mean;
everything else is a ValueError that lists what is there. Reading the rows is left to `step_store.read_rows`.
"""

import re
from dataclasses import dataclass
from typing import Any

from dgflow.store.objects import ObjectStore
from dgflow.store.open import open_store
from dgflow.store.receipts import Manifest, parse_record
from dgflow.store.step_store import StepStore, read_step

# The name has the letters of a step's folder only, so that what a message repeats of an address cannot be a
# secret.
_ADDRESS = re.compile(r"((?P<root>.+?)/+)?(?P<name>[a-z0-9-]+)/*(\[(?P<start>\d*):(?P<stop>\d+)\])?")
_RANGE = re.compile(r"\[[^/\[\]]*\]$")
_STEP = re.compile(r"(?P<kind>[a-z0-9]+(-[a-z0-9]+)*)-[0-9a-f]{12}")
_MANIFEST = re.compile(r"(?P<start>\d+)-(?P<stop>\d+)-(?P<inputs>[0-9a-f]{16})\.json")
_FORM = "ROOT/STEP or ROOT/STEP[start:stop], such as runs/digits/generate-3fa9[0:5000]"


@dataclass(frozen=True)
class Sealed:
    """Samples `start` to `stop` (exclusive) of a step, within a slice of it that is sealed."""

    steps: StepStore
    manifest: Manifest  # of the sealed slice, which may hold more
    start: int
    stop: int
    document: dict[str, Any]  # what `step.json` says of the step: kind, schema_version, fields

    @property
    def digest(self) -> str:
        """The digest that the manifest of just these samples has: the same whether they, or more, were
        sealed."""
        entries = tuple(
            entry for entry in self.manifest.entries if entry.start < self.stop and entry.stop > self.start
        )
        fields = {
            "inputs": self.manifest.inputs,
            "inputs_sha256": self.manifest.inputs_sha256,
            "entries": entries,
        }
        return Manifest(start=self.start, stop=self.stop, **fields).digest


def names_range(address: str) -> bool:
    """Whether the text ends in brackets, and so can only be an address."""
    return _RANGE.search(address) is not None


def is_root(url: str) -> bool:
    """Whether a root is at this url. Raises as `open_store`."""
    return open_store(url).size("dgflow.json") is not None


def find_slice(address: str) -> Sealed:
    """The samples at `ROOT/NAME[start:stop]`.

    ROOT is anything that `open_store` opens and that holds `dgflow.json`; NAME a step's folder or a beginning
    that only one has; without a range, the longest sealed slice.

    Raises:
        ValueError: there is no such root, step or sealed slice, or the address fits more than one. The
            message lists what is there.
        CorruptObject: a record that does not parse.
        StoreError: the root cannot be reached.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise ValueError(f"expected the address of a step's samples, {_FORM}, found another form")
    store = open_store(match["root"] or ".")
    _check_root(store)
    name = _step_name(store, match["name"])
    recorded = read_step(store, name)
    if recorded is None:
        raise ValueError(f"expected {name}/step.json in {store.url}, found none; run the recipe again")
    steps = StepStore(store, name.rpartition("-")[0], recorded["fingerprint"])
    wanted = (int(match["start"] or 0), int(match["stop"])) if match["stop"] else None
    if wanted and wanted[0] >= wanted[1]:
        raise ValueError(f"expected a range with start < stop, found [{wanted[0]}:{wanted[1]}] of {name}")
    manifest = _choose(steps, wanted)
    start, stop = wanted or (manifest.start, manifest.stop)
    return Sealed(steps, manifest, start, stop, recorded["document"])


def step_names(store: ObjectStore) -> list[str]:
    """The folders of the steps in a root, sorted."""
    return [name for name in store.names() if _STEP.fullmatch(name)]


def _check_root(store: ObjectStore) -> None:
    if store.size("dgflow.json") is None:
        raise ValueError(
            f"expected a dgflow root at {store.url}, found no dgflow.json there; an address is {_FORM}"
        )


def _step_name(store: ObjectStore, name: str) -> str:
    names = step_names(store)
    found = [name] if name in names else [each for each in names if each.startswith(name)]
    if len(found) != 1:
        listed = ", ".join(found or names) or "none"
        what = (
            f"{len(found)} that do: {listed}; give more of its name"
            if found
            else f"the steps {listed}; give one of these"
        )
        raise ValueError(f"expected one step in {store.url} whose name begins with {name!r}, found {what}")
    return found[0]


def _choose(steps: StepStore, wanted: tuple[int, int] | None) -> Manifest:
    """The manifest that holds the range, or the longest."""
    manifests = _manifests(steps)
    where = f"{steps.name} in {steps.store.url}"
    if wanted is None:
        fitting, asked = manifests, "one sealed slice"
    else:
        fitting = [each for each in manifests if each.start <= wanted[0] and wanted[1] <= each.stop]
        asked = f"a sealed slice that holds [{wanted[0]}:{wanted[1]}]"
    if not fitting:
        shards = len(steps.committed("shards"))
        there = f"the sealed slices {_listed(manifests)}" if manifests else "none"
        raise ValueError(
            f"expected {asked} of {where}, found {there} ({shards:,} shards are done);"
            " run the recipe that asks for these samples to its end"
        )
    if len({each.inputs_sha256 for each in fitting}) > 1:
        raise ValueError(
            f"expected {asked} of {where}, found several, made from different inputs: "
            f"{_listed(fitting, inputs=True)}; give a range that only one of them holds, or remove the files "
            f"of those that are out of date from {steps.name}/manifests"
        )
    longest = max(each.stop - each.start for each in fitting)
    best = [each for each in fitting if each.stop - each.start == longest]
    if wanted is None and len(best) > 1:
        raise ValueError(
            f"expected {asked} of {where}, found several of the same length: {_listed(best)}; add the one "
            "you mean, [start:stop]"
        )
    return best[0]


def _manifests(steps: StepStore) -> list[Manifest]:
    folder = f"{steps.name}/manifests"
    entries = steps.store.list(folder)
    keys = [entry.key for entry in entries if _MANIFEST.fullmatch(entry.key.removeprefix(f"{folder}/"))]
    texts = zip(keys, steps.store.get_many(keys), strict=True)
    found = [parse_record(Manifest, data, key, steps.store.url) for key, data in texts]
    return sorted(found, key=lambda each: (each.start, each.stop, each.inputs_sha256))


def _listed(manifests: list[Manifest], inputs: bool = False) -> str:
    return ", ".join(
        f"[{each.start}:{each.stop}]{f' from {each.inputs_sha256[:16]}' if inputs else ''}"
        for each in manifests
    )
