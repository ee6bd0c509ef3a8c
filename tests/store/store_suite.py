"""The test suite of every store backend: each backend's test module subclasses it, with a fixture `store`
that is empty.
"""

import multiprocessing
import pickle
import threading
from collections.abc import Callable

import pytest

from dgflow.store.objects import ObjectStore


class StoreSuite:
    """Behaviour of `ObjectStore`."""

    processes = True  # whether other processes of this host see the objects
    races, racers = 5, 16

    def test_what_was_put_is_read_back(self, store: ObjectStore) -> None:
        store.put("step/data/00001.parquet", b"\x00bytes\xff")
        assert store.get("step/data/00001.parquet") == b"\x00bytes\xff"

    def test_put_replaces_the_whole_object(self, store: ObjectStore) -> None:
        store.put("a/b", b"a long first version")
        store.put("a/b", b"short")
        assert store.get("a/b") == b"short"
        assert store.size("a/b") == 5

    def test_an_object_larger_than_a_write_buffer_comes_back_whole(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 20_000
        store.put("large", data)
        assert store.get("large") == data
        assert store.size("large") == len(data)

    def test_reading_what_is_not_there_is_a_file_not_found_error(self, store: ObjectStore) -> None:
        store.put("folder/object", b"x")
        for key in ("nothing", "folder", "folder/object/below"):
            with pytest.raises(FileNotFoundError, match=f"no object '{key}'"):
                store.get(key)

    def test_many_objects_come_in_the_order_of_their_keys(self, store: ObjectStore) -> None:
        keys = [f"many/{i}" for i in (3, 1, 2, 0)]
        for key in keys:
            store.put(key, key.encode())
        assert store.get_many([*keys, keys[0]]) == [key.encode() for key in [*keys, keys[0]]]
        assert store.get_many([]) == []

    def test_a_missing_one_among_many_is_a_file_not_found_error(self, store: ObjectStore) -> None:
        store.put("many/0", b"x")
        with pytest.raises(FileNotFoundError, match="many/1"):
            store.get_many(["many/0", "many/1"])

    def test_create_makes_an_object_once_and_never_alters_it(self, store: ObjectStore) -> None:
        assert store.create("receipt", b"first") is True
        before = store.list("")
        assert store.create("receipt", b"second") is False
        assert store.create("receipt", b"first") is False
        assert store.get("receipt") == b"first"
        assert store.list("") == before

    def test_create_does_not_replace_what_was_put(self, store: ObjectStore) -> None:
        store.put("receipt", b"put")
        assert store.create("receipt", b"created") is False
        assert store.get("receipt") == b"put"

    def test_what_was_deleted_can_be_created_again(self, store: ObjectStore) -> None:
        store.create("receipt", b"first")
        store.delete("receipt")
        assert store.create("receipt", b"second") is True
        assert store.get("receipt") == b"second"

    def test_creating_nothing_is_refused(self, store: ObjectStore) -> None:
        with pytest.raises(ValueError, match="at least one byte"):
            store.create("empty", b"")
        assert store.size("empty") is None

    def test_an_empty_object_can_be_put(self, store: ObjectStore) -> None:
        store.put("empty", b"")
        assert store.get("empty") == b""
        assert store.size("empty") == 0

    def test_the_size_of_what_is_not_there_is_none(self, store: ObjectStore) -> None:
        store.put("folder/object", b"123")
        assert store.size("folder/object") == 3
        assert [store.size(key) for key in ("folder", "other", "folder/object/below")] == [None, None, None]

    def test_a_listing_shows_a_folder_at_any_depth_sorted_by_key(self, store: ObjectStore) -> None:
        for key in (
            "step/shards/00010.json",
            "step/shards/00002.json",
            "step/shards/deep/er",
            "step/shards-other/x",
            "step/shards0",
            "x",
        ):
            store.put(key, key.encode())
        listed = store.list("step/shards")
        assert [entry.key for entry in listed] == [
            "step/shards/00002.json",
            "step/shards/00010.json",
            "step/shards/deep/er",
        ]
        assert [entry.bytes for entry in listed] == [len(entry.key) for entry in listed]
        assert len(store.list("")) == 6

    def test_a_missing_folder_lists_as_empty(self, store: ObjectStore) -> None:
        assert store.list("") == []
        store.put("folder/object", b"x")
        assert store.list("no/such/folder") == []
        assert store.list("folder/object") == []

    def test_the_names_in_the_root_are_folders_and_objects_alike(self, store: ObjectStore) -> None:
        assert store.names() == []
        for key in ("step-b/data/0", "step-b/data/1", "step-a/x", "object"):
            store.put(key, b"x")
        assert store.names() == ["object", "step-a", "step-b"]

    def test_a_listing_is_fresh_after_every_change(self, store: ObjectStore) -> None:
        for i in range(5):
            store.create(f"fresh/{i}", b"x")
            assert len(store.list("fresh")) == i + 1
        for i in range(5):
            store.delete(f"fresh/{i}")
            assert len(store.list("fresh")) == 4 - i

    def test_a_put_renews_the_time_of_an_object(self, store: ObjectStore) -> None:
        store.put("old", b"x")
        first = store.list("")[0].modified
        store.put("old", b"x")
        assert store.list("")[0].modified >= first > 1.6e9

    def test_now_is_the_time_that_objects_are_given(self, store: ObjectStore) -> None:
        before = store.now()
        store.put("a", b"x")
        assert before - 1 <= store.list("")[0].modified <= store.now() + 1  # both in whole seconds on S3
        assert [entry.key for entry in store.list("")] == ["a"]

    def test_deleting_what_is_not_there_is_fine(self, store: ObjectStore) -> None:
        store.put("a", b"x")
        store.delete("a")
        store.delete("a")
        store.delete("never/was")
        assert store.size("a") is None

    @pytest.mark.parametrize(
        "key",
        ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.hidden", ".tmp/x", "a b", "ä", "a\\b", "a?b", "a\n"],
    )
    def test_a_key_that_could_leave_the_root_or_mean_two_things_is_refused(
        self, store: ObjectStore, key: str
    ) -> None:
        for attempt in (
            store.get,
            store.size,
            store.delete,
            lambda key: store.put(key, b"x"),
            lambda key: store.create(key, b"x"),
        ):
            with pytest.raises(ValueError, match="expected a key"):
                attempt(key)

    def test_of_racing_threads_exactly_one_creates(self, store: ObjectStore) -> None:
        for race in range(self.races):
            wins: list[int] = []
            gate = threading.Barrier(self.racers)

            def racer(
                i: int, race: int = race, wins: list[int] = wins, gate: threading.Barrier = gate
            ) -> None:
                gate.wait()
                if store.create(f"race/{race}", f"racer {i}".encode()):
                    wins.append(i)

            _join([threading.Thread(target=racer, args=(i,)) for i in range(self.racers)])
            assert len(wins) == 1
            assert store.get(f"race/{race}") == f"racer {wins[0]}".encode()

    def test_of_racing_processes_exactly_one_creates(self, store: ObjectStore) -> None:
        """Forked, after the parent has used its connection: a child has to make its own."""
        if not self.processes:
            return
        store.put("before", b"the parent's connection is open")
        context = multiprocessing.get_context("fork")
        gate, wins = context.Barrier(self.racers), context.SimpleQueue()

        def racer(i: int) -> None:
            gate.wait()
            wins.put(
                (
                    i,
                    [
                        race
                        for race in range(self.races)
                        if store.create(f"race/{race}", f"racer {i}".encode())
                    ],
                )
            )

        racers = [context.Process(target=racer, args=(i,)) for i in range(self.racers)]
        for each in racers:
            each.start()
        results = [wins.get() for _ in racers]
        for each in racers:
            each.join()
            assert each.exitcode == 0
        winner = {race: i for i, races in results for race in races}
        assert sum(len(races) for _, races in results) == len(winner) == self.races
        assert {race: store.get(f"race/{race}") for race in winner} == {
            race: f"racer {i}".encode() for race, i in winner.items()
        }
        assert store.get("before") == b"the parent's connection is open"

    def test_readers_see_old_or_new_bytes_and_never_a_mixture(self, store: ObjectStore) -> None:
        versions = [bytes([i]) * 200_000 for i in range(8)]
        store.put("replaced", versions[0])
        stop = threading.Event()
        seen: set[bytes] = set()

        def reader() -> None:
            while not stop.is_set():
                seen.add(store.get("replaced"))

        thread = threading.Thread(target=reader)
        thread.start()
        for version in versions:
            store.put("replaced", version)
        stop.set()
        _join([thread], start=False)
        assert seen <= set(versions)

    def test_a_store_can_be_pickled(self, store: ObjectStore) -> None:
        store.put("a", b"x")
        copy = pickle.loads(pickle.dumps(store))
        assert (copy.url, copy.shared) == (store.url, store.shared)
        assert copy.get("a") == b"x"

    def test_a_pickled_store_works_in_a_new_interpreter(self, store: ObjectStore) -> None:
        if not self.processes:
            return
        store.put("a", b"x")
        context = multiprocessing.get_context("spawn")
        results = context.SimpleQueue()
        child = context.Process(target=_read_and_create, args=(store, results))
        child.start()
        assert results.get() == (b"x", True)
        child.join()
        assert store.get("from-the-child") == b"y"


def _read_and_create(store: ObjectStore, results: "multiprocessing.SimpleQueue[tuple[bytes, bool]]") -> None:
    results.put((store.get("a"), store.create("from-the-child", b"y")))


def _join(threads: list[threading.Thread], start: bool = True) -> None:
    for thread in threads:
        if start:
            thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def attempts(store: ObjectStore) -> dict[str, Callable[[], object]]:
    """Every operation of a store, by name, for tests of errors."""
    return {
        "read k": lambda: store.get("k"),
        "write k": lambda: store.put("k", b"x"),
        "create k": lambda: store.create("k", b"x"),
        "list all": lambda: store.list(""),
        "look up k": lambda: store.size("k"),
        "delete k": lambda: store.delete("k"),
    }
