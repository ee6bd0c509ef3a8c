"""Explain S3 errors: whether they are transient, what was found, and the remedy.

s3fs raises OSErrors whose cause is botocore's reply; botocore and aiohttp have errors of their own.
"""

import asyncio
import re
import ssl
from collections.abc import Iterator

import aiohttp
import botocore.exceptions as boto
from botocore.parsers import ResponseParserError
from fsspec.exceptions import FSTimeoutError

from dgflow.store.s3_endpoint import LOGIN

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
# botocore raises RuntimeError for renewed credentials that are still expired.
RAISED = (OSError, RuntimeError, boto.BotoCoreError, boto.ClientError, *_TRANSIENT)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.MetadataRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
)
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_UNKNOWN_KEYS = {"InvalidAccessKeyId", "InvalidToken", "InvalidClientTokenId", "UnrecognizedClientException"}
_OTHER_REGION = {
    "PermanentRedirect",
    "TemporaryRedirect",
    "Redirect",
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "InvalidLocationConstraint",
}
_OF_CREDENTIALS = re.compile("AssumeRole|GetRoleCredentials|GetFederationToken|GetSessionToken|CreateToken")

_KEYS = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or AWS_PROFILE"


def client_error(error: BaseException | None) -> boto.ClientError | None:
    """The service's error reply behind an error; None if there was none."""
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
    """True if the object does not exist; False if its bucket does not."""
    return status(error) == 404 and code(error) != "NoSuchBucket"


def is_transient(error: BaseException) -> bool:
    """True if the same request may succeed later."""
    if client_error(error):
        return status(error) in _TRANSIENT_STATUS or code(error) in _TRANSIENT_CODES
    if _certificate_error(error) or _speaks_plain_http(error) or is_of_credentials(error):
        return False
    return isinstance(error, _TRANSIENT) or (
        isinstance(error, OSError) and not isinstance(error, FileNotFoundError | PermissionError)
    )


def is_of_credentials(error: BaseException) -> bool:
    """True if there are no valid credentials now: they have expired or could not be renewed."""
    if (reply := client_error(error)) is not None:
        renewal = _OF_CREDENTIALS.match(getattr(reply, "operation_name", "") or "")
        return code(error) in _EXPIRED or renewal is not None
    if isinstance(error, RuntimeError):
        return "redentials" in str(error)
    return isinstance(error, _NO_CREDENTIALS)


def is_foreign(error: BaseException) -> bool:
    """True for an error of the program rather than of the service; it is raised unchanged."""
    of_service = isinstance(error, RecursionError) or is_of_credentials(error) or is_transient(error)
    return isinstance(error, RuntimeError) and not of_service


def explained(error: Exception, bucket: str, endpoint: str | None, tried: str) -> tuple[str, str]:
    """Explain an error as (what was found, remedy); `tried` counts the attempts, such as `6 attempts`."""
    error_code, number = code(error), status(error)
    where = endpoint or "the AWS endpoint of the region"
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return "found no credentials", LOGIN
    if error_code in _EXPIRED:
        return (
            f"the credentials have expired ({error_code})",
            f"give new ones in {_KEYS}, or log in again (`aws sso login`), and run again: nothing is lost",
        )
    if is_of_credentials(error):
        return f"found no valid credentials ({type(error).__name__}: {error})", LOGIN
    if untrusted := _certificate_error(error):
        return (
            f"the certificate of {where} is not trusted ({untrusted.verify_message})",
            "if the server uses a private certificate authority, set AWS_CA_BUNDLE to that authority's "
            "certificate file on every host; otherwise find out which server answers at that address",
        )
    if _speaks_plain_http(error):
        return f"{where} answers without TLS", "correct AWS_ENDPOINT_URL: http:// instead of https://"
    # botocore follows a redirect without a region until the stack overflows.
    if number in (301, 302, 307, 308) or error_code in _OTHER_REGION or isinstance(error, RecursionError):
        return _other_region(error, bucket, where)
    if number == 501 or error_code == "NotImplemented":
        return (
            f"{where} does not implement the request ({error_code or number}): conditional writes "
            "(PUT with `If-None-Match: *`) are required, so that nothing is committed twice",
            "set AWS_ENDPOINT_URL to a server that supports them, such as Amazon S3 or a current version of "
            "MinIO, Ceph, R2 or SeaweedFS",
        )
    if isinstance(error, boto.ParamValidationError | boto.ValidationError):
        found = " ".join(str(error).split())
        return (
            f"botocore refuses the request ({found})",
            "correct the name of the bucket, or AWS_DEFAULT_REGION",
        )
    if isinstance(error, boto.ProfileNotFound | boto.ConfigParseError | boto.ConfigNotFound):
        return str(error), "correct AWS_PROFILE, AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE"
    if error_code in ("NoSuchBucket", "InvalidBucketName"):
        return (
            f"there is no bucket {bucket!r} ({error_code})",
            "create it, or correct the url or AWS_ENDPOINT_URL",
        )
    if number in (404, 405):  # a listing or a write needs no object, so the bucket or the service is missing
        return (
            f"{where} has no such bucket or request ({error_code or number})",
            f"check that bucket {bucket!r} exists and that AWS_ENDPOINT_URL is the address of an S3 server",
        )
    if error_code == "RequestTimeTooSkewed":
        return f"this host's clock is wrong ({error_code})", "set the clock"
    if number in (401, 403) or error_code in _UNKNOWN_KEYS:
        return (
            f"access denied ({error_code or number})",
            f"check the credentials ({_KEYS}), and that they permit get, put, list and delete in bucket "
            f"{bucket!r}",
        )
    if number == 400 and error_code in (None, "400", "BadRequest"):  # a HEAD reply has no reason
        return (
            f"{where} refuses the request without a reason (400)",
            f"check AWS_DEFAULT_REGION, the credentials ({_KEYS}) and AWS_ENDPOINT_URL",
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


def _other_region(error: BaseException, bucket: str, where: str) -> tuple[str, str]:
    """Explain a redirect, as `explained` does, for a bucket at another endpoint."""
    reply = client_error(error)
    response = reply.response if reply else {}
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    detail = response.get("Error", {})
    region = headers.get("x-amz-bucket-region") or detail.get("Region") or detail.get("BucketRegion")
    if region:
        return (
            f"bucket {bucket!r} is in the region {region}, not in the requested one "
            f"({code(error) or status(error)})",
            f"set AWS_DEFAULT_REGION={region}, and no AWS_ENDPOINT_URL of another region",
        )
    target = f" to {detail['Endpoint']}" if detail.get("Endpoint") else " to another endpoint"
    found = code(error) or status(error) or "redirect"
    return (
        f"{where} redirects requests for bucket {bucket!r}{target} ({found})",
        "set AWS_DEFAULT_REGION to the bucket's region, and AWS_ENDPOINT_URL to its server's own address",
    )


def _certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The certificate error behind an error; None if there is none."""
    return next((each for each in _tls_errors(error) if isinstance(each, ssl.SSLCertVerificationError)), None)


def _speaks_plain_http(error: BaseException) -> bool:
    """True if the server answered a TLS request with plain HTTP."""
    return any(
        each.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")
        for each in _tls_errors(error)
    )


def _tls_errors(error: BaseException | None) -> Iterator[ssl.SSLError]:
    """Yield the TLS errors behind an error: in its chain of causes, or wrapped by aiohttp."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        for inner in (getattr(error, "certificate_error", None), getattr(error, "os_error", None), error):
            if isinstance(inner, ssl.SSLError):
                yield inner
        error = error.__cause__ or error.__context__
