"""Downloads from a real server that cuts connections, changes its file, and answers with other things than the file."""

from pathlib import Path

import pytest
from weights.file_server import FileServer

from dgflow.store.objects import StoreError
from dgflow.weights.https import download

DATA = bytes(range(256)) * 4096  # 1 MiB
OTHER = DATA[::-1]
ETAG = {"ETag": '"one"'}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "w.pkl"


def _serve(server: FileServer, faults: list[object], **headers: str) -> str:
    server.files["/w.pkl"], server.faults, server.headers = DATA, faults, headers
    return f"{server.url}/w.pkl"


def _ranges(server: FileServer) -> list[str | None]:
    return [request.get("range") for request in server.requests]


def test_a_file_arrives_whole_and_leaves_nothing_beside_it(server: FileServer, place: Path) -> None:
    download(_serve(server, []), place)
    assert place.read_bytes() == DATA and list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize("headers", [ETAG, {"Last-Modified": "Sat, 22 Nov 2025 00:00:00 GMT"}])
def test_a_cut_connection_goes_on_where_it_stopped(server: FileServer, place: Path, headers: dict[str, str]) -> None:
    download(_serve(server, [300_000, 200_000], **headers), place)
    assert place.read_bytes() == DATA
    assert _ranges(server) == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_call_goes_on_with_what_an_earlier_one_kept(server: FileServer, place: Path) -> None:
    url = _serve(server, [100_000, 0, 0, 0], **ETAG)
    with pytest.raises(
        StoreError, match=r"w.pkl: the connection ended after 100000 of 1048576 bytes, after 4 attempts; 100000 bytes are kept"
    ):
        download(url, place)
    assert not place.exists()
    download(url, place)
    assert place.read_bytes() == DATA and _ranges(server)[-1] == "bytes=100000-"


def test_a_download_that_was_complete_when_its_process_died_is_not_repeated(server: FileServer, place: Path) -> None:
    url = _serve(server, [len(DATA) - 1, 0, 0, 0], **ETAG)
    with pytest.raises(StoreError):
        download(url, place)
    with place.with_name("w.pkl.partial").open("ab") as partial:
        partial.write(DATA[-1:])
    asked = len(server.requests)
    download(url, place)
    assert place.read_bytes() == DATA and len(server.requests) == asked


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(server: FileServer, place: Path) -> None:
    url = _serve(server, [300_000, 0, 0, 0], **ETAG)
    with pytest.raises(StoreError):
        download(url, place)
    server.files["/w.pkl"], server.headers = OTHER, {"ETag": '"two"'}
    download(url, place)
    assert place.read_bytes() == OTHER


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}])
def test_without_a_strong_validator_a_cut_download_begins_anew(server: FileServer, place: Path, headers: dict[str, str]) -> None:
    download(_serve(server, [300_000], **headers), place)
    assert place.read_bytes() == DATA and _ranges(server) == [None, None]


def test_a_server_without_ranges_is_asked_again_for_all(server: FileServer, place: Path) -> None:
    server.ranges = False
    download(_serve(server, [300_000], **ETAG), place)
    assert place.read_bytes() == DATA


def test_a_file_that_became_shorter_is_fetched_anew(server: FileServer, place: Path) -> None:
    url = _serve(server, [300_000, 0, 0, 0], **ETAG)
    with pytest.raises(StoreError):
        download(url, place)
    server.files["/w.pkl"] = OTHER[:1000]
    download(url, place)
    assert place.read_bytes() == OTHER[:1000]


def test_errors_that_pass_are_waited_for(server: FileServer, place: Path) -> None:
    download(_serve(server, [("status", 503), ("status", 429)]), place)
    assert place.read_bytes() == DATA


def test_attempts_are_bounded(server: FileServer, place: Path) -> None:
    with pytest.raises(StoreError, match="the server answers 503 Service Unavailable, after 4 attempts"):
        download(_serve(server, [("status", 503)] * 9), place)
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_errors_that_do_not_pass_end_it_at_once(server: FileServer, place: Path, status: int) -> None:
    with pytest.raises(StoreError, match=rf"w.pkl: the server answers {status} .*moved or needs a login"):
        download(_serve(server, [("status", status)]), place)
    assert len(server.requests) == 1


def test_nobody_there_is_an_error_that_says_so(place: Path, server: FileServer) -> None:
    with pytest.raises(StoreError, match=r"could not download http://127.0.0.1:9/w.pkl: .*refused.*4 attempts"):
        download("http://127.0.0.1:9/w.pkl", place)


def test_a_web_page_in_the_file_s_place_is_refused(server: FileServer, place: Path) -> None:
    with pytest.raises(StoreError, match="expected a file, found a web page"):
        download(_serve(server, [], **{"Content-Type": "text/html; charset=utf-8"}), place)
    assert not place.exists()


def test_a_redirect_is_followed_but_not_to_a_place_without_encryption(server: FileServer, place: Path) -> None:
    url = _serve(server, [("to", "/w.pkl")])
    download(url, place)
    assert place.read_bytes() == DATA
    server.faults = [("to", "http://elsewhere.example/w.pkl")]
    with pytest.raises(
        StoreError, match="redirects to a place that is not trusted; expected https://, found http://elsewhere.example/w.pkl"
    ):
        download(url, place)


@pytest.mark.parametrize("url", ["http://example.org/w.pkl", "https://user:pass@example.org/w.pkl", "ftp://example.org/w.pkl"])
def test_a_url_that_is_not_safe_is_refused_before_any_request(url: str, place: Path) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        download(url, place)
    assert "pass" not in str(raised.value).replace("password", "")


def test_what_follows_a_question_mark_is_sent_but_shown_and_kept_nowhere(server: FileServer, place: Path) -> None:
    url = _serve(server, [100_000, 0, 0, 0], **ETAG) + "?token=secret"
    with pytest.raises(StoreError) as raised:
        download(url, place)
    assert server.requests[0]["path"] == "/w.pkl?token=secret"
    assert "secret" not in str(raised.value)
    assert "secret" not in place.with_name("w.pkl.partial.json").read_text()
