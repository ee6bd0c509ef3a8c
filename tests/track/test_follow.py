"""`dgflow track --follow`: a root from before it is there until its runs have ended."""

import pytest
from report.fake_root import fill, recipe, write_source
from track.conftest import MARK, run_record

from dgflow.store.local import LocalStore
from dgflow.store.objects import StoreError, StoreRefusal
from dgflow.store.open import open_store
from dgflow.store.runs import Beat, beat_key, record_key
from dgflow.track.follow import follow
from dgflow.track.tracker import Updater

RUN = "20260101-000000-abcdef"


class Heard:
    """A tracker that keeps the items that it receives."""

    errors = ()
    where = look = "here"

    def __init__(self):
        self.items = []

    def known(self, run):
        return set()

    def write(self, run, items):
        self.items += [(run.name, item.key) for item in items]

    def close(self):
        pass


def driver(store, *, alive: bool) -> None:
    """A run that is at work, by a recent heartbeat; or that has ended."""
    record = run_record(RUN, None if alive else "done")
    store.put(record_key(RUN), record.model_dump_json().encode())
    if alive:
        store.put(beat_key(RUN), Beat().model_dump_json().encode())
    else:
        store.delete(beat_key(RUN))


class Scene:
    """A root that is followed, and what happens to it meanwhile."""

    def __init__(self, folder):
        self.target = recipe(source=write_source(folder / "source" / "digits.npz"))
        self.url = str(folder / "digits")

    def store(self):
        return open_store(self.url)

    def make(self, **leave_out) -> None:
        """The root with all steps of the recipe, but for some parts."""
        self.store().create("dgflow.json", MARK)
        fill(self.target, self.store(), **leave_out)

    def follow(self, *stages) -> tuple[Heard, list[str]]:
        """Follow the root while one of the stages happens at each wait: the items and the messages."""
        heard, said, rest = Heard(), [], list(stages)
        for _ in follow(self.url, Updater(heard), wait=lambda: rest.pop(0)(), say=said.append):
            pass
        assert not rest, "it ended too early"
        return heard, said


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


def test_a_root_is_waited_for_and_followed_to_the_end_of_its_run(scene):
    def begin():
        store = scene.store()
        store.create("dgflow.json", MARK)
        driver(store, alive=True)

    def first_epochs():
        scene.make(leave_out=[("train-score", number) for number in range(10, 25)])

    def the_rest():
        scene.make()
        driver(scene.store(), alive=False)

    heard, said = scene.follow(lambda: None, begin, lambda: None, first_epochs, the_rest)
    assert said[0] == f"waiting for a run in {scene.url}" and len(said) == 2
    assert said[-1] == "no run is active: the last one, of digits, ended: done"
    assert len(heard.items) == len(set(heard.items))
    steps = {key for name, key in heard.items if name.startswith("train-score")}
    assert {step for name, step in steps if name == "training/train_loss"} == set(range(1, 25))
    assert any(name.endswith("/guided") for name, _ in heard.items)


def test_a_root_that_cannot_be_reached_for_a_while_is_waited_for(scene, monkeypatch):
    scene.make()
    driver(scene.store(), alive=True)
    listed = LocalStore.list

    def fails(self, prefix):
        raise StoreError("could not list in s3://bucket/digits: no route to host; check the network")

    def mend():
        monkeypatch.setattr(LocalStore, "list", listed)
        driver(scene.store(), alive=False)

    monkeypatch.setattr(LocalStore, "list", fails)
    heard, said = scene.follow(lambda: None, mend)
    assert said[0].startswith("waiting, as the root cannot be reached: could not list") and len(said) == 2
    assert heard.items


def test_a_root_that_may_not_be_read_is_an_error_at_once(scene, monkeypatch):
    scene.store().create("dgflow.json", MARK)

    def denied(self, prefix):
        raise StoreRefusal("could not list in s3://bucket/digits: access denied; check the rights")

    monkeypatch.setattr(LocalStore, "list", denied)
    with pytest.raises(StoreRefusal, match="access denied"):
        scene.follow()


def test_a_root_whose_runs_have_ended_is_told_once(scene):
    scene.make()
    driver(scene.store(), alive=False)
    heard, said = scene.follow()
    assert len(heard.items) == len(set(heard.items)) > 500 and len(said) == 1
