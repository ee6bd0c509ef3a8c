"""Several writers, crashes, lost and late requests, stale listings and changed inputs, in any order that
Hypothesis can think of."""

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store.faults import Crash, FaultyStore
from store.step_examples import INPUTS, OTHER_INPUTS, ROWS, rows, step, write

from dgflow.store.objects import Entry, ObjectStore
from dgflow.store.open import open_store
from dgflow.store.receipts import Manifest
from dgflow.store.shards import rows_sha256
from dgflow.store.step_store import read_rows

SHARDS = 4
BOTH_INPUTS = (INPUTS, OTHER_INPUTS)

shards = st.integers(0, SHARDS - 1)
some_inputs = st.sampled_from(BOTH_INPUTS)
salts = st.integers(0, 2)  # rows that differ: what is computed is not deterministic
stops = st.integers((SHARDS - 1) * ROWS - 1, SHARDS * ROWS)


@dataclass
class StaleStore(FaultyStore):
    """A store with stale listings, which lack the newest objects."""

    hidden: set[str] = field(default_factory=set)

    def list(self, prefix: str) -> list[Entry]:
        return [entry for entry in super().list(prefix) if entry.key not in self.hidden]


@dataclass
class InFlightStore(FaultyStore):
    """The writer dies at a write; the request is on its way, and may arrive at any later time."""

    in_flight: list[Callable[[], object]] = field(default_factory=list)

    def put(self, key: str, data: bytes) -> None:
        self._send(self.inner.put, key, data)

    def create(self, key: str, data: bytes) -> bool:
        return self._send(self.inner.create, key, data)

    def _send(self, operation: Callable[[str, bytes], object], key: str, data: bytes) -> bool:
        number, self.operations = self.operations, self.operations + 1
        if number == self.at:
            self.in_flight.append(lambda: operation(key, data))
            raise Crash
        return bool(operation(key, data))


class ManyWriters(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.store: ObjectStore = open_store(f"memory://{uuid.uuid4().hex}")
        self.steps = step(self.store)
        self.receipts: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.data: dict[str, bytes] = {}
        self.in_flight: list[Callable[[], object]] = []

    @rule(number=shards, inputs=some_inputs, salt=salts)
    def a_writer_commits(self, number: int, inputs: dict[str, str], salt: int) -> None:
        receipt = write(self.steps, number, inputs=inputs, salt=salt)
        assert self.steps.receipt(self.steps.done("shards", inputs)[number]) == receipt
        assert rows_sha256(self.steps.read_shard(receipt)) == receipt.rows_sha256

    @rule(
        number=shards,
        inputs=some_inputs,
        salt=salts,
        at=st.integers(0, 2),
        when=st.sampled_from(["before", "after"]),
    )
    def a_writer_dies(self, number: int, inputs: dict[str, str], salt: int, at: int, when: str) -> None:
        faulty = FaultyStore(self.store, at, "before" if when == "before" else "after")
        with contextlib.suppress(Crash):
            write(step(faulty), number, inputs=inputs, salt=salt)

    @rule(number=shards, inputs=some_inputs, salt=salts, at=st.integers(0, 1))
    def a_writer_dies_with_a_request_in_flight(
        self, number: int, inputs: dict[str, str], salt: int, at: int
    ) -> None:
        faulty = InFlightStore(self.store, at)
        with contextlib.suppress(Crash):
            write(step(faulty), number, inputs=inputs, salt=salt)
        self.in_flight += faulty.in_flight

    @rule(data=st.data())
    def a_late_request_arrives(self, data: st.DataObject) -> None:
        if self.in_flight:
            self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))()

    @rule(inputs=some_inputs, salt=salts, data=st.data())
    def a_driver_with_a_stale_listing_builds_what_it_thinks_is_missing(
        self, inputs: dict[str, str], salt: int, data: st.DataObject
    ) -> None:
        steps = step(StaleStore(self.store, hidden=self._some_keys(data)))
        done = steps.done("shards", inputs)
        for number in range(SHARDS):
            if number not in done:
                write(steps, number, inputs=inputs, salt=salt)

    @rule(inputs=some_inputs, stop=stops, data=st.data())
    def a_driver_seals_what_is_done(self, inputs: dict[str, str], stop: int, data: st.DataObject) -> None:
        steps = step(StaleStore(self.store, hidden=self._some_keys(data)))
        done = steps.done("shards", inputs)
        wanted = range((stop + ROWS - 1) // ROWS)
        keys = [done[number] for number in wanted if number in done]
        try:
            manifest = steps.seal(0, stop, inputs, keys)
        except ValueError:
            assert len(keys) < len(wanted)
        else:
            assert self.steps.manifest(0, stop, inputs) == manifest

    def _some_keys(self, data: st.DataObject) -> set[str]:
        keys = [entry.key for entry in self.store.list("")]
        return data.draw(st.sets(st.sampled_from(keys))) if keys else set()

    @invariant()
    def committed_bytes_never_change(self) -> None:
        for folder, known in (("shards", self.receipts), ("manifests", self.manifests)):
            now = {
                entry.key: self.store.get(entry.key)
                for entry in self.store.list(f"{self.steps.name}/{folder}")
            }
            assert known.items() <= now.items()
            known.update(now)
        for key, before in self.data.items():
            assert self.store.get(key) == before

    @invariant()
    def every_receipt_is_readable_and_names_whole_data(self) -> None:
        for receipt in self.steps.receipts(list(self.receipts)):
            if receipt.key not in self.data:
                found = self.steps.read_shard(receipt)
                assert found["index"].tolist() == list(
                    range(receipt.number * ROWS, (receipt.number + 1) * ROWS)
                )
                possible = [rows_sha256(rows(receipt.number, salt)) for salt in range(3)]
                assert rows_sha256(found) == receipt.rows_sha256
                assert receipt.rows_sha256 in possible
                self.data[receipt.key] = self.store.get(receipt.key)

    @invariant()
    def each_shard_has_at_most_one_receipt_for_the_same_inputs(self) -> None:
        made_from = [
            (receipt.number, receipt.inputs_sha256) for receipt in self.steps.receipts(list(self.receipts))
        ]
        assert len(made_from) == len(set(made_from))

    @invariant()
    def each_index_is_once_in_a_manifest(self) -> None:
        for data in self.manifests.values():
            manifest = Manifest.model_validate_json(data)
            parts = list(read_rows(self.steps, manifest, manifest.start, manifest.stop, ["index"]))
            assert [index for part in parts for index in part["index"].tolist()] == list(
                range(manifest.start, manifest.stop)
            )
            receipts = self.steps.receipts([entry.receipt for entry in manifest.entries])
            assert {receipt.inputs_sha256 for receipt in receipts} == {manifest.inputs_sha256}
            assert [receipt.sha256 for receipt in receipts] == [entry.sha256 for entry in manifest.entries]


TestManyWriters = ManyWriters.TestCase
TestManyWriters.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
