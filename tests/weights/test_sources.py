"""Sources as text, and the hub's files through huggingface_hub against a server on loopback."""

from pathlib import Path

import huggingface_hub.constants
import pytest
from weights.file_server import FileServer

from dgflow.store.objects import StoreError
from dgflow.weights.sources import obtain, parse_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "kind", "public", "file_name"),
    [
        ("https://host/a/w.pkl?key=1#x", "https", "https://host/a/w.pkl", "w.pkl"),
        ("http://localhost:8000/w.pkl", "https", "http://localhost:8000/w.pkl", "w.pkl"),
        ("HTTPS://host/w.pkl", "https", "https://host/w.pkl", "w.pkl"),
        ("http://[::1]:8000/w.pkl?key=1", "https", "http://[::1]:8000/w.pkl", "w.pkl"),
        ("hf:owner/repo/vae/w.safetensors@v1", "hf", "hf:owner/repo/vae/w.safetensors@v1", "w.safetensors"),
        ("hf:owner/repo/w.safetensors", "hf", "hf:owner/repo/w.safetensors", "w.safetensors"),
        ("s3://bucket/a/w.pt", "s3", "s3://bucket/a/w.pt", "w.pt"),
        ("/data/my%20w.pt", "file", "file:///data/my%2520w.pt", "my%20w.pt"),
        ("file:///data/my%20w.pt", "file", "file:///data/my%20w.pt", "my w.pt"),
    ],
)
def test_each_form_of_source_is_understood(text: str, kind: str, public: str, file_name: str) -> None:
    found = parse_source(text)
    assert (found.kind, found.public, found.file_name) == (kind, public, file_name)


def test_a_relative_path_is_recorded_as_an_absolute_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_source("w.pt").public == (tmp_path / "w.pt").as_uri()


@pytest.mark.parametrize(
    "text",
    [
        "hf:repo/w.pt",
        "hf:owner/repo",
        "hf:owner/../w.pt",
        "hf:owner/repo/../../w.pt@v1",
        "hf:owner/repo//etc/w.pt",
        "hf:owner/repo/w.pt@../../v1",
        "hf:owner/repo/w.pt@v1?token=secret",
        "file:w.pt",
        "w\0.pt",
        "file:///w%00.pt",
        "~nobody-of-that-name/w.pt",
        "gs://bucket/w.pt",
        "https://host/",
        "https:///w.pt",
        "https://host:port/w.pt",
        "https://host:99999/w.pt",
        "https://[::1/w.pt",
        "https://host/w\n.pt?token=secret",
        "s3://key:secret@bucket/w.pt",
        "s3://bucket/../other/w.pt",
        "http://host/w.pt",
    ],
)
def test_what_is_no_source_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        parse_source(text)
    assert "secret" not in str(raised.value)


@pytest.fixture
def hub(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """The file `sub/w.safetensors` of `owner/repo` at one commit, and an empty cache."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    server.files[f"/owner/repo/resolve/{COMMIT}/sub/w.safetensors"] = b"tensors"
    server.headers = {"ETag": '"abc"', "X-Repo-Commit": COMMIT}
    return server


def test_a_file_of_the_hub_is_fetched_at_its_revision(hub: FileServer, tmp_path: Path) -> None:
    found = obtain(parse_source(f"hf:owner/repo/sub/w.safetensors@{COMMIT}"), tmp_path / "unused").path
    assert found.read_bytes() == b"tensors"


def test_a_file_that_the_hub_does_not_have_is_named_with_what_to_check(
    hub: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(
        StoreError,
        match=rf"could not download hf:owner/repo/other.bin@{COMMIT}: .*check the name and "
        r"revision.*HF_TOKEN",
    ):
        obtain(parse_source(f"hf:owner/repo/other.bin@{COMMIT}"), tmp_path / "unused")
