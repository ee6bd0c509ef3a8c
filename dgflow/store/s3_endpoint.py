"""Refuses what the environment says of S3 where no request should be made with it."""

import ipaddress
import os
import re
from urllib.parse import urlsplit

PLAIN_HTTP = "DGFLOW_PLAIN_HTTP"  # set to 1 to allow an endpoint without TLS
LOGIN = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give this host a role"


def configured_endpoint() -> str | None:
    """The endpoint that the environment names."""
    return os.environ.get(_variable()) or None


def _variable() -> str:
    """The variable that names the endpoint."""
    return "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"


def check_configuration() -> None:
    """Raises ValueError for settings in the environment that no request should be made with."""
    check_endpoint(configured_endpoint())
    if (bundle := os.environ.get("AWS_CA_BUNDLE")) and not os.path.exists(bundle):
        raise ValueError(
            f"expected a file of certificates at {bundle}, which AWS_CA_BUNDLE names, found none on this host"
        )


def check_endpoint(endpoint: str | None) -> None:
    """Raises ValueError for one that is no url or has credentials in it, or is on a network without TLS
    although nobody allowed it."""
    if endpoint is None:
        return
    parts = urlsplit(endpoint)
    if "@" in endpoint:  # it would be in every error of the libraries below, and in this one
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
            f"expected an endpoint of S3 that begins with https://, found {endpoint}: without TLS whoever is "
            "on the way can read and alter the data, and read the requests' signatures (secret keys are not "
            f"sent). Use https://, with AWS_CA_BUNDLE for a certificate of your own, or set {PLAIN_HTTP}=1, "
            "on every host, where the network is yours alone"
        )


def _has_host(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return (
            bool(parts.hostname) and (parts.port is None or parts.port > 0) and endpoint == endpoint.strip()
        )
    except ValueError:  # a port that is no number
        return False


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
