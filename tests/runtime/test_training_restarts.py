"""Trainings whose workers or hosts die, or that have too little or more room: the driver's loop, without
workers."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError

from dgflow.runtime.placement import Placement
from dgflow.runtime.training import capacity, fit, worker
from dgflow.runtime.training.lease import Claim
from dgflow.store.objects import StoreError, StoreRefusal
from dgflow.store.receipts import CorruptObject

DIED = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
CLOSED = RuntimeError(
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:41234"
)
HUNG = RuntimeError(
    "[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 900000ms for recv operation to complete"
)


def died(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("as it was", dict(enumerate(failures or (DIED, CLOSED))))


REFUSED = ControllerError(WorkerGroupStartupTimeoutError(3))


class Cluster:
    """The environment of `fit`: GPUs, hosts, and for each start of the workers the following events."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpus, self.hosts, self.epochs, self.now = 2, {"a", "b"}, 0, 0.0
        self.started: list[int] = []
        self.released: list[int] = []
        self.told: list[str] = []
        self.asked: list[list[dict[str, int]]] = []
        self.places: list[object] = []
        self.events: list[Any] = []  # an error, a number of epochs that complete, or a function
        self.naps: list[Any] = []
        self.number = 1
        self.holders: list[Claim | None] = []  # of the lease before it is free
        monkeypatch.setattr(fit, "_watched", self._watched)
        monkeypatch.setattr(fit, "elastic", lambda: True)
        monkeypatch.setattr(fit, "Lease", lambda _: self)
        monkeypatch.setattr(capacity, "elastic", lambda: True)
        monkeypatch.setattr(capacity, "slots", lambda _: self.gpus)
        monkeypatch.setattr(capacity, "request_resources", lambda bundles: self.asked.append(bundles))
        monkeypatch.setattr(
            capacity, "placement_group", lambda _: self.places.append(place := object()) or place
        )
        monkeypatch.setattr(capacity, "remove_placement_group", self.places.remove)
        monkeypatch.setattr(capacity.Capacity, "release", lambda _: self.released.append(len(self.started)))
        monkeypatch.setattr(capacity, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep))
        monkeypatch.setattr(ray, "nodes", self._nodes)
        monkeypatch.setattr(ray, "cluster_resources", self._resources)
        monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 2.0})

    def take(self) -> Claim | None:
        return self.holders.pop(0) if self.holders else None

    def end(self) -> None:
        self.number = 0

    def _resources(self) -> dict[str, float]:
        return {"CPU": 2.0} | ({"GPU": float(self.gpus)} if self.gpus else {})

    def _nodes(self) -> list[dict[str, Any]]:
        """Returns the hosts, of which the first has all resources."""
        hosts = [{"NodeID": host, "NodeManagerHostname": host, "Alive": True} for host in self.hosts]
        return [
            host | {"Resources": {} if number else self._resources()} for number, host in enumerate(hosts)
        ]

    def fit(self, *, epochs: int = 3, wish: int | None = None, batch_size: int = 16) -> "Cluster":
        steps: Any = SimpleNamespace(
            name="train-score-0", done=lambda *_: {}, is_committed=lambda _, number, __: number <= self.epochs
        )
        unused: Any = None
        placement = Placement(train_workers=wish, num_gpus=1.0)
        fit.fit(
            unused,
            steps,
            {},
            epochs=epochs,
            batch_size=batch_size,
            placement=placement,
            on_epoch=lambda _: None,
            tell=self.told.append,
        )
        return self

    def _watched(self, job, workers: int, look) -> BaseException | None:
        self.started.append(workers)
        event: Any = self.events.pop(0) if self.events else job.epochs
        event = event() if callable(event) else event
        if isinstance(event, int):
            self.epochs += event
            look()
            return None
        return event

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.naps:
            self.naps.pop(0)()


@pytest.fixture
def cluster(monkeypatch):
    return Cluster(monkeypatch)


def test_after_the_loss_of_a_host_training_goes_on_with_fewer_and_grows_again(cluster):
    def lost():
        cluster.gpus, cluster.hosts = 1, {"a"}
        return died()

    def joined():
        cluster.gpus, cluster.hosts = 3, {"a", "c", "d"}
        return 1

    cluster.events = [lost, joined]
    cluster.fit()
    assert cluster.started == [2, 1, 3]
    assert cluster.told == [
        "training with 2 workers",
        "training continues with 1 worker: a host was lost",
        "training grows to 3 workers",
    ]


def test_a_training_whose_workers_die_three_times_in_one_epoch_is_given_up(cluster):
    cluster.events = [died(), 1, died(), died(HUNG), died(CLOSED)]
    with pytest.raises(fit.TrainingFailed, match="train-score-0 died 3 times after epoch 1 of 3"):
        cluster.fit()
    assert len(cluster.started) == 5


def test_deaths_with_which_a_host_was_lost_do_not_count_though_ray_finds_it_dead_only_later(cluster, caplog):
    cluster.hosts = set("abcdef")

    def loses(host):
        def lost():
            cluster.hosts = cluster.hosts - {host}
            return died()

        return lost

    cluster.events = [loses(host) for host in "abcde"] + [
        died(),
        died(),
    ]  # the last but one is of a host not yet declared dead
    cluster.fit()
    assert len(cluster.started) == 8
    assert caplog.text.count("with a host, which does not count") == 5
    assert "try 2 of 3" in caplog.text


def test_a_host_that_still_counts_though_it_is_dead_costs_one_more_start_with_one_worker_fewer(
    cluster, caplog
):
    def seen():
        cluster.gpus = 2
        return 1

    cluster.gpus = 3
    cluster.events = [REFUSED, REFUSED, seen]
    cluster.fit()
    assert cluster.started == [3, 2, 1, 2]
    assert cluster.told[1].startswith("training continues with 2 workers: the cluster has no room for 3")
    assert cluster.released == [1, 2]  # room that a failed start may hold is free before the next
    assert "try" not in caplog.text


def test_training_waits_for_hosts_says_so_now_and_then_and_asks_an_autoscaler_for_them(cluster):
    cluster.gpus, asked = 0, []

    def arrives():
        asked.append(len(cluster.places))
        cluster.gpus = 2

    cluster.naps = [lambda: None] * 40 + [arrives]
    cluster.fit(wish=2)
    waiting = "waiting for room: 2 workers that need 1 GPU each, the cluster has 0 GPUs now"
    assert cluster.told == [waiting, waiting, "training with 2 workers"]
    assert (asked, cluster.places) == ([2], [])


def test_a_wish_that_does_not_fit_yet_is_asked_for_while_training_and_taken_back_at_the_end(cluster):
    cluster.fit(wish=5)
    assert cluster.started == [2]
    assert [len(bundles) for bundles in cluster.asked] == [5, 5, 0]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("expected labels 0 to 9"),
        FloatingPointError("expected a finite training loss"),
        CorruptObject("shards/00001"),
        StoreRefusal("access denied"),
    ],
)
def test_what_the_workers_own_code_raised_ends_the_training_whatever_the_others_say(cluster, error):
    cluster.events = [died(CLOSED, error)]
    with pytest.raises(type(error), match=str(error)):
        cluster.fit()
    assert cluster.started == [2]


def test_a_root_that_cannot_be_reached_is_tried_again(cluster, caplog):
    cluster.events = [died(StoreError("503 slow down")), 3]
    cluster.fit()
    assert cluster.started == [2, 2]
    assert "try 1 of 3" in caplog.text


@pytest.mark.parametrize(
    ("wish", "batch", "gpus", "free", "more"),
    [
        (None, 16, 3, 1, True),
        (None, 16, 3, 0, False),
        (None, 2, 3, 1, False),
        (2, 16, 3, 1, False),
        (5, 16, 3, 1, True),
        (5, 16, 2, 0, False),
    ],
)
def test_two_workers_make_room_for_more_where_a_gpu_is_free_and_wanted(
    monkeypatch, wish, batch, gpus, free, more
):
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 4.0, "GPU": float(free)})
    monkeypatch.setattr(worker, "slots", lambda _: gpus)
    unused: Any = None
    assert (
        worker.room_for_more(worker.TrainingJob(unused, unused, {}, 3, 0, batch, True, True, wish), 2) is more
    )


def test_a_second_driver_says_who_trains_takes_the_epochs_as_they_come_and_goes_on_after(
    cluster, monkeypatch
):
    def nap(seconds):
        cluster.epochs += 1

    monkeypatch.setattr(fit, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=nap))
    cluster.holders = [Claim(id="a", host="laptop", pid=42, seconds=130.0)] * 2
    cluster.fit()
    [waiting, *_] = cluster.told
    assert waiting.startswith("waiting: process 42 on laptop has trained train-score-0 for 2 min 10 s.")
    assert (cluster.told[1:], cluster.started, cluster.number) == (["training with 2 workers"], [2], 0)


def test_where_another_driver_does_it_all_no_worker_is_started(cluster, monkeypatch):
    def nap(seconds):
        cluster.epochs += 1

    monkeypatch.setattr(fit, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=nap))
    cluster.holders = [Claim(id="a")] * 5
    cluster.fit()
    assert (cluster.started, cluster.epochs) == ([], 3)


def test_gloo_is_bound_to_the_interface_of_the_address_that_ray_knows():
    names = {name for _, name in socket.if_nameindex()}
    assert worker.interface_of("127.0.0.1") in names & {"lo"}
    assert worker.interface_of("192.0.2.1") is None  # of the block for documentation, which no host has
