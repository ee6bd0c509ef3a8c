"""A writer that fails before or after every single operation of its work, on every backend, and one that then
repeats the work."""

import contextlib
import uuid

import pytest
from store.faults import FAULTS, FaultyStore, When
from store.step_examples import DOCUMENT, INPUTS, ROWS, rows, same_rows, step, write

from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.open import open_store
from dgflow.store.receipts import Manifest, StepMismatch
from dgflow.store.step_store import StepStore

SHARDS = 2


def work(steps: StepStore, salt: int = 0) -> Manifest:
    """The work of a driver; any part of it may be done already."""
    steps.declare(DOCUMENT)
    done = steps.done("shards", INPUTS)
    for number in range(SHARDS):
        if number not in done:
            write(steps, number, salt=salt)
    keys = steps.done("shards", INPUTS)
    return steps.manifest(0, SHARDS * ROWS, INPUTS) or steps.seal(
        0, SHARDS * ROWS, INPUTS, [keys[number] for number in range(SHARDS)]
    )


def check_whole(steps: StepStore, manifest: Manifest) -> None:
    """Exactly one receipt a shard, each with complete data of the recorded digest, and a manifest of each
    index once."""
    receipts = steps.store.list(f"{steps.name}/shards")
    assert [int(entry.key.split("/")[-1][:5]) for entry in receipts] == list(range(SHARDS))
    for receipt, entry in zip(
        steps.receipts([entry.key for entry in receipts]), manifest.entries, strict=True
    ):
        assert (receipt.key, receipt.sha256) == (entry.key, entry.sha256)
        found = steps.read_shard(receipt)
        assert any(same_rows(found, rows(receipt.number, salt)) for salt in (0, 1))
    assert [index for entry in manifest.entries for index in range(entry.start, entry.stop)] == list(
        range(SHARDS * ROWS)
    )


@pytest.mark.parametrize(("when", "error"), FAULTS)
def test_work_that_failed_at_any_operation_is_completed_by_a_repetition(
    store: ObjectStore, when: When, error: type[BaseException]
) -> None:
    complete = FaultyStore(store)
    work(step(complete, {"case": "complete"}))
    assert complete.operations == 11  # declare, list, two of (put, create), list, get, get_many, list, create
    for at in range(complete.operations):
        case = {"case": at}
        with contextlib.suppress(error):
            work(step(FaultyStore(store, at, when, error), case))
        check_whole(step(store, case), work(step(store, case), salt=1))


@pytest.mark.parametrize(("when", "error"), FAULTS)
def test_a_repetition_that_fails_in_turn_is_completed_by_the_next(
    when: When, error: type[BaseException]
) -> None:
    """The first writer failed anywhere; the second finds that, and fails anywhere in what it has left to
    do."""
    store = open_store(f"memory://{uuid.uuid4().hex}")
    for first in range(11):
        for second in range(11):
            case = {"case": [first, second]}
            for salt, at in enumerate((first, second)):
                with contextlib.suppress(error):
                    work(step(FaultyStore(store, at, when, error), case), salt=salt)
            check_whole(step(store, case), work(step(store, case), salt=1))


@pytest.mark.parametrize("at", [0, 1])
def test_an_error_after_the_write_is_judged_by_what_is_there(store: ObjectStore, at: int) -> None:
    """Operation 0 puts the data and 1 creates the receipt: only the first is an error to the caller."""
    steps = step(FaultyStore(store, at, "after", StoreError))
    if at == 0:
        with pytest.raises(StoreError, match="injected"):
            write(steps, 0)
        assert step(store).committed("shards") == {}
    else:
        receipt = write(steps, 0)
        assert step(store).receipts(list(step(store).done("shards", INPUTS).values())) == [receipt]


def test_an_error_before_the_receipt_is_an_error_to_the_caller(store: ObjectStore) -> None:
    with pytest.raises(StoreError, match="injected"):
        write(step(FaultyStore(store, 1, "before", StoreError)), 0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_declaration_whose_reply_was_an_error_is_judged_by_what_is_there(
    store: ObjectStore, when: When
) -> None:
    step(store).declare(DOCUMENT)
    step(FaultyStore(store, 0, when, StoreError)).declare(DOCUMENT)
    with pytest.raises(StepMismatch, match="document"):
        step(FaultyStore(store, 0, when, StoreError)).declare({"another": "document"})
