"""Split paths and urls, and refuse mistyped ones with a hint at the likely meaning.

No message repeats a possible secret: a text with `@`, `?` or `#` after a scheme is not shown.
"""

import contextlib
import os
import re
from pathlib import Path
from urllib.parse import unquote

_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):(/*)(.*)", re.DOTALL)
_WITHOUT_COLON = re.compile(r"(s3[an]?|file)//+(.*)", re.IGNORECASE | re.DOTALL)
_OF_S3 = ("s3", "s3a", "s3n")
_OF_OTHERS = (
    "gs",
    "gcs",
    "az",
    "abfs",
    "abfss",
    "wasb",
    "wasbs",
    "adl",
    "hdfs",
    "ftp",
    "http",
    "https",
    "hf",
)
_ARN = re.compile(r"arn:[a-z-]+:s3:::([a-z0-9.-]+)(?:/(.*))?", re.DOTALL)
# Web addresses of Amazon S3: with the bucket in the host, with the bucket in the path, and of the console.
_WEB = (
    re.compile(r"https?://([a-z0-9.-]+?)\.s3[a-z0-9.-]*\.amazonaws\.com(?:/([^?#]*))?", re.IGNORECASE),
    re.compile(r"https?://s3[a-z0-9.-]*\.amazonaws\.com/([a-z0-9.-]+)(?:/([^?#]*))?", re.IGNORECASE),
)
_FORMS = "a path, file:///path, memory://name or s3://bucket/prefix"


def split_url(text: str) -> tuple[str, str]:
    """Split a location into scheme and rest: (`s3`, `bucket/prefix`), (`memory`, `name`), (`file`, a path).

    A path is returned with its `~` expanded; it may be relative. Raises ValueError, with the likely meaning,
    for a text that is neither a path nor a supported url; a text that may hold a secret is not repeated.
    """
    if not text.strip():
        raise ValueError(f"expected {_FORMS}, found an empty text; is a variable of the shell unset?")
    scheme, separator, rest = text.partition("://")
    if separator and scheme in ("s3", "memory") and re.search(r"[@?#]", rest):
        raise ValueError(
            f"expected {scheme}://NAME/PREFIX without '@', '?' or '#', found one of them; set credentials "
            "and options in the environment instead (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            "AWS_ENDPOINT_URL)"
        )
    if separator and scheme == "s3":
        return "s3", _checked_bucket(rest)
    if separator and scheme == "memory":
        return "memory", rest
    if separator and scheme == "file" and rest.startswith("/"):
        return "file", _checked_path(unquote(rest), text)
    _refuse_other_urls(text)
    return "file", _checked_path(text, text)


def _checked_bucket(rest: str) -> str:
    """Validate the `bucket/prefix` of an S3 url. Raises ValueError."""
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        meant = rest.strip("/")
        raise ValueError(
            f"expected s3://bucket/prefix, found no bucket{_suggested(f's3://{meant}') if meant else ''}"
        )
    if bucket.strip() != bucket or ":" in bucket or bucket == "~":
        raise ValueError(
            f"expected s3://bucket/prefix, found {bucket!r} instead of a bucket's name; to use another "
            "server than Amazon S3, set AWS_ENDPOINT_URL=https://host:port"
        )
    if any(part in (".", "..") for part in rest.split("/")):
        raise ValueError(f"expected s3://bucket/prefix without '.' and '..', found s3://{rest}")
    return rest


def _refuse_other_urls(text: str) -> None:
    """Raise ValueError for a text that has, or was meant to have, another scheme."""
    if arn := _ARN.fullmatch(text.strip()):
        raise ValueError(f"expected {_FORMS}, found an ARN{_suggested(_joined('s3', *arn.groups()))}")
    if match := _WITHOUT_COLON.fullmatch(text):
        raise ValueError(f"expected {_FORMS}, found no colon{_likely(match[1], match[2])}")
    match = _SCHEME.fullmatch(text)
    if match is None:
        return
    scheme, slashes, rest = match.groups()
    known = scheme.lower() in (*_OF_S3, *_OF_OTHERS, "file", "memory")
    if len(slashes) < 2 and not (known and (slashes or not os.path.lexists(text))):
        return  # a file name with a colon in it
    if scheme == "file" and len(slashes) == 2:
        found = f"found {_shown(text)}{_likely(scheme, rest)}"
        raise ValueError(f"expected file:///path with three slashes, {found}")
    likely = _from_the_web(text) or _likely(scheme, rest, bool(slashes))
    if len(slashes) < 2:
        raise ValueError(f"expected {_FORMS}, found {_shown(text)}{likely}")
    raise ValueError(f"expected {_FORMS}, found a url of scheme {scheme!r}{likely}")


def _likely(scheme: str, rest: str, slashes: bool = True) -> str:
    """A hint at the intended form of a url of another scheme; empty if it cannot be guessed."""
    if re.search(r"[@?#]", rest) or not rest.strip("/"):
        return ""
    if scheme.lower() in _OF_S3:
        return _suggested(f"s3://{rest.strip().lstrip('/')}")
    if scheme.lower() == "file":
        return _suggested(f"file:///{rest.removeprefix('localhost/').lstrip('/')}" if slashes else rest)
    if scheme.lower() == "memory":
        return _suggested(f"memory://{rest.lstrip('/')}")
    return ""


def _from_the_web(text: str) -> str:
    for form in _WEB:
        if match := form.match(text.strip()):
            return _suggested(_joined("s3", *match.groups()))
    return ""


def _joined(scheme: str, bucket: str, prefix: str | None) -> str:
    return f"{scheme}://{bucket}/{prefix}" if prefix else f"{scheme}://{bucket}"


def _suggested(meant: str) -> str:
    return f": did you mean {meant}?"


def _shown(text: str) -> str:
    return "a url with '@', '?' or '#' in it" if re.search(r"[@?#]", text) else repr(text)


def _checked_path(path: str, text: str) -> str:
    """Expand the `~` of a path. Raises ValueError for a path that is surely a mistake."""
    if "\0" in path:
        raise ValueError(f"expected a path, found a zero byte in {text!r}")
    if path != path.strip() and not os.path.lexists(path):
        raise ValueError(f"expected a path, found {text!r} with spaces around it{_suggested(path.strip())}")
    if re.match(r"/+~", path) and not os.path.lexists(path):
        raise ValueError(f"expected a path, found {text!r}{_suggested(path.lstrip('/'))}")
    if re.match(r"\$(\w+|\{\w+\})", path) and not os.path.lexists(path):
        raise ValueError(
            f"expected a path, found {text!r}, with a shell variable that was not expanded; remove the "
            "single quotes, or write the path in full"
        )
    expanded = _with_home(path, text)
    if not os.path.abspath(expanded).strip("/"):
        raise ValueError(
            f"expected a folder or a file, found {text!r}, which is the whole file system; is a variable of "
            "the shell unset?"
        )
    return expanded


def _with_home(path: str, text: str) -> str:
    """Replace a leading `~` of a path by the home folder."""
    if not path.startswith("~") or (path.split("/")[0] != "~" and os.path.lexists(path)):
        return path
    user = path.split("/")[0]
    with contextlib.suppress(RuntimeError):
        if user != "~" or os.environ.get("HOME", "unset"):
            return str(Path(path).expanduser())
    remedy = "set HOME" if user == "~" else "correct the name"
    raise ValueError(
        f"expected a path, found {text!r} but no home folder for {user} on this host; "
        f"{remedy}, or write the path in full"
    )
