"""Downloads from a real server that cuts connections, changes its file, and answers with other things than
the file."""

import http.client
import io
import json
import os
import resource
import socket
from pathlib import Path
from urllib.request import Request

import pytest
from weights.file_server import FileServer

from dgflow.store.objects import StoreError
from dgflow.weights import https
from dgflow.weights.https import check_url, download

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
def test_a_cut_connection_goes_on_where_it_stopped(
    server: FileServer, place: Path, headers: dict[str, str]
) -> None:
    download(_serve(server, [300_000, 200_000], **headers), place)
    assert place.read_bytes() == DATA
    assert _ranges(server) == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_call_goes_on_with_what_an_earlier_one_kept(server: FileServer, place: Path) -> None:
    url = _serve(server, [100_000, 0, 0, 0], **ETAG)
    with pytest.raises(
        StoreError,
        match=r"w.pkl: the connection ended after 100000 of 1048576 bytes, after 4 attempts; 100000 bytes "
        r"are kept",
    ):
        download(url, place)
    assert not place.exists()
    download(url, place)
    assert place.read_bytes() == DATA and _ranges(server)[-1] == "bytes=100000-"


def test_a_download_that_was_complete_when_its_process_died_is_not_repeated(
    server: FileServer, place: Path
) -> None:
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
def test_without_a_strong_validator_a_cut_download_begins_anew(
    server: FileServer, place: Path, headers: dict[str, str]
) -> None:
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
    with pytest.raises(
        StoreError, match=r"could not download http://127.0.0.1:9/w.pkl: .*refused.*4 attempts"
    ):
        download("http://127.0.0.1:9/w.pkl", place)


def test_a_web_page_in_the_file_s_place_is_refused(server: FileServer, place: Path) -> None:
    with pytest.raises(StoreError, match="expected a file, found a web page"):
        download(_serve(server, [], **{"Content-Type": "text/html; charset=utf-8"}), place)
    assert not place.exists()


def test_a_redirect_is_followed_but_not_to_a_place_without_encryption(
    server: FileServer, place: Path
) -> None:
    url = _serve(server, [("to", "/w.pkl")])
    download(url, place)
    assert place.read_bytes() == DATA
    server.faults = [("to", "http://elsewhere.example/w.pkl?key=1")]
    with pytest.raises(
        StoreError,
        match="redirects to an untrusted address; expected https://, found http://elsewhere.example:",
    ) as raised:
        download(url, place)
    assert "w.pkl?key" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://example.org/w.pkl", "https://user:pass@example.org/w.pkl", "ftp://example.org/w.pkl"]
)
def test_a_url_that_is_not_safe_is_refused_before_any_request(url: str, place: Path) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        download(url, place)
    assert "pass" not in str(raised.value).replace("password", "")


def test_what_follows_a_question_mark_is_sent_but_shown_and_kept_nowhere(
    server: FileServer, place: Path
) -> None:
    url = _serve(server, [100_000, 0, 0, 0], **ETAG) + "?token=secret"
    with pytest.raises(StoreError) as raised:
        download(url, place)
    assert server.requests[0]["path"] == "/w.pkl?token=secret"
    assert "secret" not in str(raised.value)
    assert "secret" not in place.with_name("w.pkl.partial.json").read_text()


def test_two_urls_that_differ_in_their_query_alone_are_two_downloads(server: FileServer, place: Path) -> None:
    url = _serve(server, [100_000, 0, 0, 0], **ETAG)
    with pytest.raises(StoreError):
        download(f"{url}?id=1", place)
    download(f"{url}?id=2", place)
    assert _ranges(server)[-1] is None


def _reply(*headers: str, body: bytes = b"", status: str = "200 OK") -> tuple[str, bytes]:
    return "raw", "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def test_a_reply_that_does_not_say_where_it_ends_is_taken_only_by_who_can_check_it(
    server: FileServer, place: Path
) -> None:
    url = _serve(server, [_reply(body=b"half of th"), _reply(body=b"half of th")])
    with pytest.raises(
        StoreError, match=r"w.pkl: the server does not announce the size of the file; give the file's sha256"
    ):
        download(url, place)
    assert not place.exists()
    download(url, place, unsized=True)
    assert place.read_bytes() == b"half of th"


@pytest.mark.parametrize("length", ["+5", "-5", "9" * 25, "5\r\nContent-Length: 8"])
def test_a_length_that_could_be_understood_in_two_ways_is_refused(
    server: FileServer, place: Path, length: str
) -> None:
    with pytest.raises(StoreError, match="the size that the server announces is not a number"):
        download(_serve(server, [_reply(f"Content-Length: {length}", body=b"abcdefgh")]), place)


def test_of_a_file_without_a_length_the_range_s_total_says_when_it_is_whole(
    server: FileServer, place: Path
) -> None:
    start = DATA + DATA[:10]  # in chunks, then cut in the second one; 1 MiB is kept
    chunks = b"%x\r\n" % len(DATA) + DATA + b"\r\n" + b"%x\r\n" % 500 + DATA[:10]
    total = len(start) + 90
    ranged = _reply(
        'ETag: "one"',
        f"Content-Range: bytes {len(DATA)}-{total - 1}/{total}",
        "Content-Length: 100",
        body=b"abc",
        status="206 P",
    )
    url = _serve(server, [_reply('ETag: "one"', "Transfer-Encoding: chunked", body=chunks), ranged], **ETAG)
    server.files["/w.pkl"] = whole = DATA + DATA[:100]
    download(url, place)
    assert len(place.read_bytes()) == len(whole) and len(server.requests) == 3


def test_more_than_was_announced_is_refused(server: FileServer, place: Path) -> None:
    reply = _reply("Content-Length: 3", "Transfer-Encoding: chunked", body=b"8\r\nabcdefgh\r\n0\r\n\r\n")
    with pytest.raises(StoreError, match="the server sends more than 3 bytes, the size that it announced"):
        download(_serve(server, [reply]), place)


def test_a_file_of_unknown_length_is_bounded(
    server: FileServer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "MOST", 1000)
    with pytest.raises(StoreError, match="the server sends more than 1000 bytes"):
        download(_serve(server, [_reply(body=bytes(1001))]), place, unsized=True)


def test_a_connection_on_which_nothing_comes_is_given_up(
    server: FileServer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "TIMEOUT", 0.05)
    stall = ("stall", _reply("Content-Length: 8", body=b"abc")[1])
    with pytest.raises(StoreError, match="timed out, after 4 attempts"):
        download(_serve(server, [stall] * 4), place)


def test_a_link_in_the_place_of_the_partial_file_is_not_written_through(
    server: FileServer, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("precious")
    os.symlink(tmp_path / "precious", place.with_name("w.pkl.partial"))
    with pytest.raises(StoreError, match=r"w.pkl.partial: .*check that the path is not a link"):
        download(_serve(server, []), place)
    assert (tmp_path / "precious").read_text() == "precious" and not place.exists()


@pytest.mark.parametrize("note", [{"validator": "a\r\nX: y"}, {"size": "1"}, {"validator": 3}])
def test_a_damaged_note_counts_as_none(server: FileServer, place: Path, note: dict[str, object]) -> None:
    url = _serve(server, [100_000, 0, 0, 0], **ETAG)
    with pytest.raises(StoreError):
        download(url, place)
    path = place.with_name("w.pkl.partial.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **note}))
    download(url, place)
    assert place.read_bytes() == DATA and _ranges(server)[-1] is None


def test_a_full_disk_is_an_error_with_the_path_and_what_to_do(server: FileServer, place: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    url = _serve(server, [], **ETAG)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
        with pytest.raises(
            StoreError,
            match=r"to .*w.pkl.partial: .*the disk has room, or set XDG_CACHE_HOME .* and run again",
        ):
            download(url, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    download(url, place)
    assert place.read_bytes() == DATA and _ranges(server) == [None, "bytes=500000-"]


def test_no_error_repeats_what_a_server_wrote(server: FileServer, place: Path) -> None:
    with pytest.raises(StoreError, match="answers 404 Not Found;") as raised:
        download(_serve(server, [_reply("Content-Length: 0", status="404 \x1b[31m?sig=SECRET")]), place)
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("place_to", "message"),
    [
        ("https://[::1/w?sig=SECRET", "it redirects to an invalid address"),
        ("https://host:99999/w?sig=SECRET", "expected a url with a host name and a port"),
        ("https://user:SECRET@host/w", "expected a url without user name and password"),
        ("ftp://host/w?sig=SECRET", "found ftp://host:"),
        ("file:///etc/passwd?sig=SECRET", "the server answers 302 Found"),
        ("/w.pkl?sig=SECRET", "the server answers 302 Found"),
    ],
)
def test_a_redirect_that_cannot_be_followed_ends_it_at_once_and_shows_no_query(
    server: FileServer, place: Path, place_to: str, message: str
) -> None:
    with pytest.raises(StoreError, match=message) as raised:
        download(_serve(server, [("to", place_to)] * 20), place)
    assert "SECRET" not in str(raised.value)


def test_another_host_cannot_redirect_to_this_one() -> None:
    first = "https://example.org/w.pkl?sig=SECRET"
    redirects = https._Redirects(first)
    with pytest.raises(
        StoreError, match=r"example.org/w.pkl: .*found http://127.0.0.1:8265, which is this host"
    ) as raised:
        headers = http.client.HTTPMessage()
        redirects.redirect_request(
            Request(first), io.BytesIO(), 302, "Found", headers, "http://127.0.0.1:8265/api/jobs?x=SECRET"
        )
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://h/a b?token=SECRET",
        "https://h/a\r\nX: SECRET",
        "https://h/\u00e9?SECRET",
        "https://h:99999/SECRET",
        "https:///SECRET",
    ],
)
def test_a_url_that_is_none_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match="expected") as raised:
        check_url(url)
    assert "SECRET" not in str(raised.value)


def test_a_host_that_nobody_knows_is_told_at_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def unknown(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(StoreError, match="the host weights.invalid is unknown .*this host's network"):
        download("https://weights.invalid/w.pkl", place)
    assert asked == ["weights.invalid"]
