"""Fixtures of the cluster tests: one network with an S3 server, for the session, with this process on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from cluster import cluster_driver
from cluster.disturbed import Undisturbed, made_here
from cluster.hosts import Network, lacking


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Returns a network to which hosts can be added; `network.s3` is the environment of the S3 server's
    clients, and this process has it too."""
    if reason := lacking():
        pytest.skip(reason)
    with Network(tmp_path_factory.mktemp("hosts")) as network, pytest.MonkeyPatch.context() as patch:
        for name, value in network.start_s3(network.host("s3")).items():
            patch.setenv(name, value)
        yield network


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes a file of pictures that all hosts see: they have this machine's files."""
    return tiny.write_images(tmp_path_factory.mktemp("images") / "images.npz")


@pytest.fixture(scope="session")
def undisturbed(network: Network, images: Path) -> Undisturbed:
    """Returns a root with the samples, made in this process."""
    root = f"{network.s3['BUCKET_URL']}/undisturbed"
    return Undisturbed(made_here(cluster_driver.target("samples", images), root), images)
