"""Joining a cluster, and the workers that fit now and with its autoscaler's maximum."""

import math
import socket
from uuid import uuid4

import pytest
import ray
import yaml
from ray.exceptions import AuthenticationError

from dgflow.runtime import cluster, ray_private
from dgflow.runtime.machine import elastic
from dgflow.runtime.placement import Placement
from dgflow.store.memory import MemoryStore
from dgflow.store.open import open_store

HEAD = {"CPU": 0.0, "node:__internal_head__": 1.0}

# As `ray up` leaves it in the head's home folder: with the resources of every node type filled in.
CONFIGURATION = {
    "max_workers": 12,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0, "GPU": 0}},
        "gpu": {
            "min_workers": 0,
            "max_workers": 8,
            "resources": {"CPU": 4, "GPU": 1, "accelerator_type:L4": 1},
        },
        "cpu": {"min_workers": 0, "max_workers": 4, "resources": {"CPU": 8}},
    },
}


def nodes(*alive):
    """Simulates Ray's report of nodes, of which some are alive."""
    return [
        {"NodeID": str(number), "NodeManagerHostname": f"host-{number}", "Alive": each}
        for number, each in enumerate(alive)
    ]


@pytest.fixture
def joined(monkeypatch, tmp_path):
    """Simulates a connection to a cluster with such resources; its home folder is empty."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: nodes(True))
    monkeypatch.setattr(ray_private, "reported_maximum", lambda: None)
    monkeypatch.setattr(ray_private, "has_autoscaler", lambda: False)
    monkeypatch.setattr(ray_private, "draining", lambda: set())
    return lambda *hosts: monkeypatch.setattr(
        ray, "nodes", lambda: [nodes(True)[0] | {"Resources": each} for each in hosts]
    )


def test_a_named_cluster_is_elastic_and_ray_of_our_own_is_not(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not elastic()
    for address, expected in {"": False, "local": False, "auto": True, "10.0.0.1:6379": True}.items():
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert elastic() is expected


def test_a_cluster_may_have_no_room_and_a_machine_always_has_some(joined, monkeypatch):
    joined(HEAD)
    assert (cluster.slots(0.0), cluster.slots(1.0), cluster.most_slots(1.0)) == (0, 0, 0)
    joined({"CPU": 12.0, "GPU": 3.0})
    assert (cluster.slots(0.0), cluster.slots(1.0), cluster.slots(0.5), cluster.slots(2.0)) == (12, 3, 6, 1)
    joined({"CPU": 8.0, "GPU": 3.0}, {"CPU": 4.0, "GPU": 1.0})  # counted by host
    assert (cluster.slots(2.0), cluster.slots(0.3), cluster.slots(0.0)) == (1, 12, 12)
    monkeypatch.setattr(ray_private, "draining", lambda: {nodes(True)[0]["NodeID"]})
    assert cluster.slots(1.0) == 0  # nothing is placed on draining hosts
    monkeypatch.delenv("RAY_ADDRESS")
    joined({})
    assert (cluster.slots(0.0), cluster.slots(1.0), cluster.most_slots(1.0)) == (1, 1, 1)


def test_the_autoscalers_limits_are_read_from_the_configuration_that_ray_up_leaves_on_the_head(
    joined, tmp_path
):
    joined(HEAD)
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(CONFIGURATION))
    assert cluster.autoscaler_maximum() == {"CPU": 4 * 8 + 8 * 4, "GPU": 8}
    assert (cluster.most_slots(1.0), cluster.most_slots(0.5), cluster.most_slots(0.0)) == (8, 16, 64)


def test_the_limit_on_all_nodes_together_holds():
    assert cluster.configured_maximum(CONFIGURATION | {"max_workers": 5}) == {"CPU": 4 * 8 + 4, "GPU": 5}


def test_limits_that_an_autoscaler_reports_count_before_all_others(joined, monkeypatch, tmp_path):
    joined(HEAD)
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(CONFIGURATION))
    monkeypatch.setattr(ray_private, "reported_maximum", lambda: {"CPU": 2, "GPU": 64})
    assert cluster.most_slots(1.0) == 64


def test_an_autoscaler_whose_limits_are_not_known_has_none(joined, monkeypatch):
    joined(HEAD)
    monkeypatch.setattr(ray_private, "has_autoscaler", lambda: True)
    assert cluster.autoscaler_maximum() == {"CPU": math.inf, "GPU": math.inf}
    assert cluster.most_slots(1.0) > 10_000


def test_a_head_without_gpu_does_not_decide_for_the_hosts_that_its_autoscaler_may_start(joined, monkeypatch):
    joined(HEAD)
    assert cluster.resolved(Placement()).num_gpus == 0.0
    monkeypatch.setattr(ray_private, "reported_maximum", lambda: {"CPU": 8, "GPU": 1})
    assert cluster.resolved(Placement()).num_gpus == 1.0
    monkeypatch.setattr(ray_private, "reported_maximum", lambda: {"CPU": 8})
    assert cluster.resolved(Placement()).num_gpus == 0.0


def test_a_root_on_one_disk_is_refused_where_there_are_other_hosts_or_may_be(joined, monkeypatch):
    joined(HEAD)
    store = MemoryStore(uuid4().hex)
    cluster.connect(store)  # one host, and none to be added
    monkeypatch.setattr(ray_private, "reported_maximum", lambda: {"CPU": 8})
    with pytest.raises(
        ValueError,
        match=r"the cluster has an autoscaler, and nodes that it starts may not see the root "
        r"mem.*--root s3://",
    ):
        cluster.connect(store)
    monkeypatch.setattr(ray_private, "reported_maximum", lambda: None)
    monkeypatch.setattr(ray, "nodes", lambda: nodes(True, False, True))
    monkeypatch.setattr(cluster, "_hosts_without", lambda _: ["host-2"])
    with pytest.raises(ValueError, match="host-2 of the cluster's 2 nodes cannot see the root mem"):
        cluster.connect(store)
    monkeypatch.setattr(cluster, "_hosts_without", lambda _: [])
    cluster.connect(store)


def test_an_address_where_nothing_answers_is_told_before_ray_tries_for_minutes(monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(
        ValueError, match=f"expected a Ray cluster at RAY_ADDRESS={address}, found nothing that answers there"
    ):
        cluster.connect(open_store(str(tmp_path)))


@pytest.mark.parametrize(
    "error",
    [ConnectionError("Failed to connect to Ray cluster at 10.0.0.1"), AuthenticationError("no token")],
)
def test_a_cluster_that_refuses_us_is_told_with_what_to_do(monkeypatch, tmp_path, error):
    """Ray 2.60 raises these errors for a wrong token, after 20 s, and for a missing one."""

    def refuse(**_):
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ValueError, match="RAY_ADDRESS=auto refuses this process: .*RAY_AUTH_TOKEN"):
        cluster.connect(open_store(str(tmp_path)))
