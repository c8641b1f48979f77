"""Which hosts a token may go to."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DEMO_URL", "PRODUCTION_URL", "SANDBOX_TOKEN_PREFIX"]

PRODUCTION_URL = "https://extapi.jetpay.baselinepayments.com"
"""The live service [guide]: real cards, real money."""

DEMO_URL = "https://extapi.demo.jetpay.baselinepayments.com"
"""The vendor's demo service. The host's spelling is inferred: dots or dashes were lost in print."""

SANDBOX_TOKEN_PREFIX = "jetpay_sandbox_"  # noqa: S105 - the mark of a token that is worth nothing
"""How the tokens of `jetpay_async.sandbox` begin."""

_VENDOR = "baselinepayments.com"
_TOKEN = re.compile(r"[\x21-\x7e]+")


def check_base_url(base_url: str, trusted_origins: Iterable[str]) -> str:
    """Return the URL without a trailing slash, or refuse it.

    Raises:
        ConfigurationError: It is no absolute http(s) URL, holds credentials, a query or a fragment, or the token must
            not be sent there: another host than the vendor's, or unencrypted, and not said to be trusted.
    """
    if not isinstance(base_url, str):
        raise ConfigurationError(
            f"base_url: is a str such as jetpay_async.PRODUCTION_URL, not {type(base_url).__name__}"
        )
    try:
        parts = urlsplit(base_url)
        host = (parts.hostname or "").rstrip(".")
        origin = f"{parts.scheme}://{parts.netloc.lower()}"
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(f"base_url: is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError("base_url: must begin with https://, as jetpay_async.PRODUCTION_URL does")
    if "@" in parts.netloc or parts.query or parts.fragment or re.search(r"\s", base_url):
        raise ConfigurationError("base_url: must hold a scheme, a host and at most a path; no credentials, no query")
    if not _is_loopback(host) and origin not in {trusted.lower().rstrip("/") for trusted in trusted_origins}:
        if parts.scheme == "http":
            raise ConfigurationError(
                f"base_url: {origin} is unencrypted, and the API token would be readable on the way; use https://, or "
                f"say trusted_origins=[{origin!r}] if that network is yours"
            )
        if host != _VENDOR and not host.endswith(f".{_VENDOR}"):
            raise ConfigurationError(
                f"base_url: {host} is not a host of Jetpay, and the API token would be sent there; correct it, or say "
                f"trusted_origins=[{origin!r}] if that gateway is yours"
            )
    return base_url.rstrip("/")


def check_token(token: str, base_url: str) -> str:
    """Return the token, or refuse it without showing it.

    Raises:
        ConfigurationError: It is no token, or a sandbox's token on its way to another host.
    """
    if not isinstance(token, str):
        raise ConfigurationError(f"api_token: is a str, or an async function returning one, not {type(token).__name__}")
    if not _TOKEN.fullmatch(token):
        raise ConfigurationError(
            "api_token: is empty, or holds a space, a line break or a character that no token has; "
            "copy it again from the dashboard"
        )
    if token.startswith(SANDBOX_TOKEN_PREFIX) and not _is_loopback(urlsplit(base_url).hostname or ""):
        raise ConfigurationError("api_token: is a sandbox's token, but base_url is another host; use the sandbox's url")
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
