"""Explains errors of S3: if they pass, what was found, what to do; and refuses endpoints before any request.

s3fs raises OSErrors whose cause is botocore's reply; botocore and aiohttp have errors of their own.
"""

import asyncio
import ipaddress
import os
import ssl
from urllib.parse import urlsplit

import aiohttp
import botocore.exceptions as boto
from botocore.parsers import ResponseParserError
from fsspec.exceptions import FSTimeoutError

PLAIN_HTTP = "DGFLOW_PLAIN_HTTP"  # set to 1 to allow an endpoint without TLS

_TRANSIENT_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "InternalError",
    "BadDigest",
}
_TRANSIENT = (
    boto.ConnectionError,
    boto.HTTPClientError,
    ResponseParserError,
    FSTimeoutError,
    asyncio.TimeoutError,
    aiohttp.ClientError,
)
RAISED = (OSError, boto.BotoCoreError, boto.ClientError, *_TRANSIENT)
_NO_CREDENTIALS = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.TokenRetrievalError)

_LOGIN = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this host a role"


def client_error(error: BaseException | None) -> boto.ClientError | None:
    """The reply of the service behind an error, where there was one."""
    while error is not None and not isinstance(error, boto.ClientError):
        error = error.__cause__
    return error


def code(error: BaseException) -> str | None:
    reply = client_error(error)
    return reply.response.get("Error", {}).get("Code") if reply else None


def status(error: BaseException) -> int | None:
    reply = client_error(error)
    return reply.response.get("ResponseMetadata", {}).get("HTTPStatusCode") if reply else None


def is_missing(error: BaseException) -> bool:
    """Tells if there is no such object, in a bucket that may well be there."""
    return status(error) == 404 and code(error) != "NoSuchBucket"


def is_transient(error: BaseException) -> bool:
    """Tells if the same request may succeed later."""
    if client_error(error):
        return status(error) in _TRANSIENT_STATUS or code(error) in _TRANSIENT_CODES
    if _certificate_error(error):
        return False
    return isinstance(error, _TRANSIENT) or (
        isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)
    )


def explained(error: Exception, bucket: str, endpoint: str | None, tried: str) -> tuple[str, str]:
    """(what was found, what to do); `tried` is the number of times, such as `6 attempts`."""
    error_code, number = code(error), status(error)
    where = endpoint or "the AWS endpoint of the region"
    if isinstance(error, _NO_CREDENTIALS):
        return "found no credentials", _LOGIN
    if untrusted := _certificate_error(error):
        return (
            f"the certificate of {where} is not trusted ({untrusted.verify_message})",
            "for a server with a certificate of its own, give the file of the authority that signed it in "
            "AWS_CA_BUNDLE, on every host; for any other, find out who answers there",
        )
    if error_code in ("NoSuchBucket", "InvalidBucketName"):
        return (
            f"there is no bucket {bucket!r} ({error_code})",
            "create it, or correct the url or AWS_ENDPOINT_URL",
        )
    if error_code == "RequestTimeTooSkewed":
        return f"this host's clock is off ({error_code})", "set the clock"
    if number in (401, 403) or error_code in ("ExpiredToken", "InvalidToken"):
        return (
            f"access denied ({error_code or number})",
            f"check the credentials, and that they may get, put, list and delete in bucket {bucket!r}",
        )
    if number == 507 or error_code in ("QuotaExceeded", "XMinioStorageFull"):
        return (
            f"the storage is full ({error_code or number})",
            "free some space there, or use another root, and run again: nothing is lost",
        )
    if error_code is None and isinstance(error, _TRANSIENT):
        return (
            f"{where} does not answer after {tried} ({type(error).__name__}: {error})",
            "check AWS_ENDPOINT_URL, the network and the server, and run again: nothing is lost",
        )
    return f"{type(error).__name__}: {error}", "resolve that and run again: nothing is lost"


def configured_endpoint() -> str | None:
    """The endpoint that the environment names."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def check_configuration() -> None:
    """Raises ValueError for settings in the environment that no request should be made with."""
    check_endpoint(configured_endpoint())
    if (bundle := os.environ.get("AWS_CA_BUNDLE")) and not os.path.exists(bundle):
        raise ValueError(
            f"expected a file of certificates at {bundle}, which AWS_CA_BUNDLE names, found none on this host"
        )


def check_endpoint(endpoint: str | None) -> None:
    """Raises ValueError for one with credentials, or on a network without TLS although nobody allowed it."""
    if endpoint is None:
        return
    parts = urlsplit(endpoint)
    if "@" in parts.netloc:  # it would be in every error of the libraries below, and in this one
        raise ValueError(f"expected AWS_ENDPOINT_URL without credentials; {_LOGIN}")
    if parts.scheme == "http" and not _is_loopback(parts.hostname) and os.environ.get(PLAIN_HTTP) != "1":
        raise ValueError(
            f"expected an endpoint of S3 that begins with https://, found {endpoint}: without TLS whoever is "
            "on the way can read and alter the data, and read the requests' signatures (secret keys are not "
            f"sent). Use https://, with AWS_CA_BUNDLE for a certificate of your own, or set {PLAIN_HTTP}=1, "
            "on every host, where the network is yours alone"
        )


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """The refusal of a certificate behind an error: in its chain of causes, or wrapped by aiohttp."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        inner = getattr(error, "certificate_error", None) or error
        if isinstance(inner, ssl.SSLCertVerificationError):
            return inner
        error = error.__cause__ or error.__context__
    return None
