"""Validate the S3 settings in the environment before any request."""

import ipaddress
import os
import re
from urllib.parse import urlsplit

PLAIN_HTTP = "DGFLOW_PLAIN_HTTP"  # set to 1 to allow an endpoint without TLS
LOGIN = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this host a role"


def configured_endpoint() -> str | None:
    """The endpoint set in the environment."""
    return os.environ.get(_variable()) or None


def _variable() -> str:
    """Name of the environment variable that sets the endpoint."""
    return "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"


def check_configuration() -> None:
    """Raise ValueError for an invalid or insecure endpoint, or for a missing file of certificates."""
    check_endpoint(configured_endpoint())
    if (bundle := os.environ.get("AWS_CA_BUNDLE")) and not os.path.exists(bundle):
        raise ValueError(
            f"expected a file of certificates at {bundle}, which AWS_CA_BUNDLE names, found none on this host"
        )


def check_endpoint(endpoint: str | None) -> None:
    """Raise ValueError for an endpoint that is not a url, contains credentials, or is remote without TLS
    while PLAIN_HTTP is not set.
    """
    if endpoint is None:
        return
    parts = urlsplit(endpoint)
    if "@" in endpoint:  # errors, here and in the libraries below, would repeat the secret
        raise ValueError(f"expected {_variable()} without credentials; {LOGIN}")
    if parts.scheme not in ("http", "https") or not _has_host(endpoint):
        meant = re.sub(r"^[a-z0-9]*:?/+", "", endpoint.strip(), flags=re.IGNORECASE)
        scheme = "http" if _is_loopback(re.split(r"[:/]", meant)[0]) else "https"
        raise ValueError(
            f"expected {_variable()} of the form https://host or http://host:port, found {endpoint!r}: did "
            f"you mean {scheme}://{meant}?"
        )
    if parts.scheme == "http" and not _is_loopback(parts.hostname) and os.environ.get(PLAIN_HTTP) != "1":
        raise ValueError(
            f"expected an endpoint of S3 that begins with https://, found {endpoint}: without TLS anyone on "
            "the network path can read and alter the data, and read the requests' signatures (secret keys "
            "are not sent). Use https://, with AWS_CA_BUNDLE for a private certificate, or set "
            f"{PLAIN_HTTP}=1 on every host if nobody else can access the network"
        )


def _has_host(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return (
            bool(parts.hostname) and (parts.port is None or parts.port > 0) and endpoint == endpoint.strip()
        )
    except ValueError:  # the port is not a number
        return False


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
