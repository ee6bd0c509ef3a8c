"""`memory://name`."""

import os
import pickle
import uuid

import pytest
from store.store_suite import StoreSuite

from dgflow.store.memory import MemoryStore
from dgflow.store.objects import ObjectStore, StoreError
from dgflow.store.open import open_store


class TestMemoryStore(StoreSuite):
    processes = False

    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore(uuid.uuid4().hex)

    def test_the_same_name_is_the_same_store_in_this_process(self, store: ObjectStore) -> None:
        store.put("a", b"x")
        assert open_store(store.url).get("a") == b"x"
        assert store.shared is False

    def test_unpickling_in_another_process_is_an_error_and_not_an_empty_store(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pickled = pickle.dumps(store)
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(
            StoreError, match=r"exists only in another process; use a path or s3://bucket/prefix"
        ):
            pickle.loads(pickled)
