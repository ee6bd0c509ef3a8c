"""docs/slurm.sh unchanged, with a stand-in for Slurm: nodes are hosts of the network."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import slurm_recipe
from cluster.disturbed import sealed_indices
from cluster.hosts import Host, Network, Process
from cluster.slurm import Slurm

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "slurm.sh"
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(tmp_path_factory.mktemp("slurm") / "shared") as slurm:
        yield slurm


@pytest.fixture(scope="module")
def nodes(network: Network) -> list[Host]:
    return [network.host(f"node-{number}") for number in range(3)]


def left(slurm: Slurm, nodes: list[Host]) -> list:
    """Returns what jobs have left behind: processes, Ray's files, tokens."""
    files = [path for node in nodes for path in (node.folder / "disk").glob("ray-*")]
    tokens = list((slurm.home / ".ray").iterdir())
    return [pid for node in nodes for pid in node.processes()] + files + tokens


def answers(job: Process, node: Host, token: dict[str, str]) -> bool:
    """True if the job's cluster answers a client with this token."""
    [address] = re.findall(r"slurm.sh: Ray at (\S+),", job.output)
    return node.run([RAY, "health-check", "--address", address], token).wait(300) == 0


def test_a_run_works_on_every_node_is_requeued_at_its_time_limit_and_goes_on(
    slurm: Slurm, nodes: list[Host], tmp_path: Path
) -> None:
    root = f"{slurm.folder}/root"  # on a file system that all nodes share
    command = (slurm_recipe.__file__, str(tmp_path), root)
    first = slurm.sbatch(nodes, 1, SCRIPT, *command)
    at_work = {node.name for node in nodes}
    first.wait_for(lambda: at_work <= set(os.listdir(tmp_path)), "shards on all nodes", 300)
    token = slurm.home / ".ray" / "slurm-1"
    assert token.stat().st_mode & 0o777 == 0o600
    assert {(node.folder / "disk" / "ray-1").stat().st_mode & 0o777 for node in nodes} == {0o700}
    assert answers(first, nodes[1], {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)})
    assert not answers(first, nodes[1], {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})
    first.signal(signal.SIGUSR1)
    assert first.wait(300) == 0, first.output
    assert slurm.requeued == "requeue 1\n"
    assert not left(slurm, nodes)

    (tmp_path / "go").touch()
    slurm.sbatch(nodes[1:2], 1, SCRIPT, *command).finish(300)  # on the resources that Slurm has this time
    step = slurm_recipe.samples(str(tmp_path))
    assert sealed_indices(root, step) == list(range(slurm_recipe.SHARDS * step.shard_size))
    assert not left(slurm, nodes) and slurm.requeued == "requeue 1\n"


def test_a_root_that_the_nodes_do_not_share_is_refused(
    slurm: Slurm, nodes: list[Host], tmp_path: Path
) -> None:
    job = slurm.sbatch(nodes[:2], 2, SCRIPT, slurm_recipe.__file__, str(tmp_path), "/mnt/root")
    assert job.wait(300) == 1
    assert "node-1 of the cluster's 2 nodes cannot see the root file:///mnt/root" in job.output
    assert not left(slurm, nodes)


def test_jobs_share_a_node_and_end_with_their_recipes_status_or_when_they_are_cancelled(
    slurm: Slurm, nodes: list[Host], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import os, sys, ray\n"
        "ray.init(log_to_driver=False)\n"
        "offered = [ray.cluster_resources()[name] for name in ('CPU', 'GPU')]\n"
        "print('offered', *offered, 'in', os.environ.get('CONTAINER'), flush=True)\n"
        "sys.exit(int(open(sys.argv[1]).read()))\n"
    )
    stale = nodes[0].folder / "disk" / "ray-10" / "ray" / "ray_current_cluster"  # of a job that was killed
    stale.parent.mkdir(parents=True)
    stale.write_text("10.99.0.1:1")
    jobs = []
    for number, told in enumerate((tmp_path / "failing", tmp_path / "cancelled")):
        os.mkfifo(told)
        container = f"env CONTAINER={told.name}"
        jobs.append(slurm.sbatch(nodes[:1], 10 + number, SCRIPT, str(recipe), str(told), container=container))
        jobs[-1].says(f"offered 1.0 1.0 in {told.name}", 300)
    failing, cancelled = jobs
    (tmp_path / "failing").write_text("7")
    assert failing.wait(300) == 7, failing.output
    cancelled.signal(signal.SIGTERM)
    assert cancelled.wait(300) == 143, cancelled.output
    assert not left(slurm, nodes)
