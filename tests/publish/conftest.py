"""A root of the whole pipeline at toy size, built once, and a hub on loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from inprocess import complete
from once import once
from publish.hub_server import TOKEN, Hub, hub_server
from tiny import workflow, write_images

import dgflow
from dgflow.client.open_root import OpenRoot
from dgflow.store.open import open_store


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The url of the root; tests read it."""
    return str(once(tmp_path_factory, "to-publish", _make) / "root")


def _make(folder: Path) -> None:
    images = write_images(folder / "private-images.npz")
    store = open_store(str(folder / "root"))
    store.create("dgflow.json", b'{"dgflow_root": 1}')
    complete(workflow(str(images)), store)


@pytest.fixture
def opened(root: str) -> OpenRoot:
    return dgflow.open(root)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and the environment of somebody who may write there."""
    import huggingface_hub.constants as constants
    import huggingface_hub.utils._http as http

    with hub_server() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        yield served
    http.close_session()
