"""Ray's own autoscaler (v2) with hosts of namespaces: a run asks for workers, hosts are added, the run ends,
hosts are removed."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cluster.disturbed import Cluster, Undisturbed
from cluster.hosts import Network, wait_for
from cluster.namespace_provider import HEAD, Cloud

SECONDS = 400.0


@pytest.fixture
def scaled(network: Network, tmp_path: Path):
    """Returns a cluster with an autoscaler that may add two hosts, and the cloud that has them."""
    socket = network.folder / "cloud.sock"
    head = network.host("scaled-head")
    (head.folder / "disk" / "home" / "ray_bootstrap_config.yaml").write_text(
        yaml.safe_dump(configuration(socket))
    )  # where `ray up` puts it
    made: list[Cluster] = []

    def start(environment: dict[str, str]) -> Callable[[], None]:
        [host] = made[0].add(env=environment, ready=False)
        return lambda: made[0].lose(host)

    cloud = Cloud(socket, start)
    tests = str(Path(__file__).resolve().parents[1])
    env = {
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_NODE_TYPE_NAME": HEAD,
        "PYTHONPATH": tests,
    }
    made.append(
        Cluster(
            network, "scaled", "--autoscaling-config=/mnt/home/ray_bootstrap_config.yaml", head=head, env=env
        )
    )
    yield made[0], cloud
    made[0].close()
    cloud.close(socket)


def configuration(socket: Path) -> dict:
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        **{
            f"{name}_commands": [] for name in commands
        },  # an external provider's configuration is not filled in
        "file_mounts": {},
        "cluster_synced_files": [],
        "cluster_name": "namespaces",
        "max_workers": 2,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "external",
            "module": "cluster.namespace_provider.NamespaceProvider",
            "cloud": str(socket),
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "head_node_type": HEAD,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }


def test_a_run_on_a_head_alone_gets_its_hosts_and_they_go_when_it_ends(scaled, undisturbed: Undisturbed):
    cluster, cloud = scaled
    root = undisturbed.begun("scaled", undisturbed.samples.name, "taken-")
    assert cloud.hosts == 0
    run = cluster.drive("samples", root, undisturbed.source)
    run.wait_for(lambda: cloud.hosts == 2, "two hosts")
    run.says("workers: 2 on 2 hosts")
    run.finish(SECONDS)
    undisturbed.check(root, undisturbed.samples)
    wait_for(lambda: cloud.hosts == 0, "end of the idle hosts")
    assert cloud.started == 2
