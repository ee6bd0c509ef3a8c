"""Locations as people mistype them: refused with the likely meaning, for roots, samples and outputs alike."""

import os
from pathlib import Path

import pytest

from dgflow.files.locations import locate
from dgflow.files.outputs import new_file
from dgflow.store.objects import StoreError
from dgflow.store.open import open_store


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


MISTYPED = {
    "s3:/bucket/x": "did you mean s3://bucket/x?",
    "s3:bucket/x": "did you mean s3://bucket/x?",
    "S3:/bucket/x": "did you mean s3://bucket/x?",
    "S3://bucket/x": "did you mean s3://bucket/x?",
    "s3a://bucket/x": "did you mean s3://bucket/x?",
    "s3n://bucket/x": "did you mean s3://bucket/x?",
    "s3//bucket/x": "did you mean s3://bucket/x?",
    "s3:///bucket/x": "no bucket: did you mean s3://bucket/x?",
    "s3://": "no bucket",
    "s3://10.0.0.1:9000/bucket/x": "AWS_ENDPOINT_URL",
    "s3://bucket/../x": "without '.' and '..'",
    "arn:aws:s3:::bucket/x": "did you mean s3://bucket/x?",
    "https://bucket.s3.eu-west-1.amazonaws.com/a/b": "did you mean s3://bucket/a/b?",
    "https://s3.eu-west-1.amazonaws.com/bucket/a": "did you mean s3://bucket/a?",
    "https://example.org/x": "scheme 'https'",
    "gs://bucket/x": "scheme 'gs'",
    "file:/x": "did you mean file:///x?",
    "file:x": "did you mean x?",
    "file://x/y": "three slashes, found 'file://x/y': did you mean file:///x/y?",
    "file://localhost/x": "did you mean file:///x?",
    "file:///": "the whole file system",
    "/": "the whole file system",
    "//": "the whole file system",
    "/tmp/..": "the whole file system",
    "": "an empty text",
    "  ": "an empty text",
    " runs/x": "did you mean runs/x?",
    "runs/x\n": "did you mean runs/x?",
    "/~/runs": "did you mean ~/runs?",
    "~no-such-user/x": "no home folder for ~no-such-user",
    "$HOME/x": "a shell variable that was not expanded",
    "${ROOT}": "a shell variable that was not expanded",
}


@pytest.mark.parametrize("text", MISTYPED)
def test_a_mistyped_location_is_refused_with_the_likely_meaning_and_nothing_is_made(
    text: str, tmp_path: Path
) -> None:
    for opened in (open_store, locate, lambda out: new_file(out).__enter__()):
        with pytest.raises(ValueError) as raised:
            opened(text)
        assert MISTYPED[text] in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["s3:/key:hunter2@bucket/x", "S3://key:hunter2@bucket/x", "s3a://b/x?t=hunter2"]
)
def test_a_mistyped_url_is_not_repeated_where_it_may_hold_a_secret(text: str) -> None:
    with pytest.raises(ValueError) as raised:
        open_store(text)
    assert "hunter2" not in str(raised.value)


def test_names_with_colons_dollars_and_tildes_in_them_are_paths(tmp_path: Path) -> None:
    for name in ("runs/a:b", "2026-01-01T10:00", "a~b", "cost-in-$"):
        assert open_store(name).url == (tmp_path / name).as_uri()
    (tmp_path / "~x").write_bytes(b"")
    (tmp_path / "$y").write_bytes(b"")
    assert [locate(name).kind() for name in ("~x", "$y")] == ["file", "file"]


def test_a_tilde_is_the_home_folder_and_an_empty_home_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("~/runs").url == (tmp_path / "runs").as_uri()
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ValueError, match="no home folder for ~ on this host; set HOME"):
        open_store("~/runs")


def test_a_root_that_is_a_file_or_lies_below_one_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    Path("file").write_text("no folder")
    for root in ("file", "file/root", "file/deep/er"):
        with pytest.raises(StoreError, match="could not use it as a root in .*is a file and not a folder"):
            open_store(root)
    assert os.listdir(tmp_path) == ["file"]
