"""Which hosts a token may go to."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jetpay_async._core.contract import DEMO_URL, PRODUCTION_URL, VENDOR_DOMAIN
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DEMO_URL", "PRODUCTION_URL", "SANDBOX_TOKEN_PREFIX"]

SANDBOX_TOKEN_PREFIX = "jetpay_sandbox_"  # noqa: S105 - the mark of a token that is worth nothing
"""How the tokens of `jetpay_async.sandbox` begin."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_TOKEN = re.compile(r"[\x21-\x7e]+")
# Narrower than RFC 3986 on purpose: where two parsers read a URL differently, a token goes to the host that was not
# checked. No credentials, query, fragment, backslash, percent sign in the host, or letter beyond ASCII.
_PLAIN_URL = re.compile(
    r"https?://(?:[\w-]+(?:\.[\w-]+)*\.?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?(?:/[\w.~!$&'()*+,;=:@%/-]*)?",
    re.ASCII | re.IGNORECASE,
)


def check_base_url(base_url: str, trusted_origins: Iterable[str]) -> str:
    """Return the URL without a trailing slash, or refuse it.

    Raises:
        ConfigurationError: It is no absolute http(s) URL, holds more than a host, a port and a path, or the token must
            not be sent there: another host than the vendor's, or unencrypted, and not said to be trusted.
    """
    if not isinstance(base_url, str):
        raise ConfigurationError(
            f"base_url: is a str such as jetpay_async.PRODUCTION_URL, not {type(base_url).__name__}"
        )
    if not is_plain_url(base_url):
        raise ConfigurationError(
            "base_url: must be https://, a host and at most a port and a path, in plain ASCII, such as "
            "jetpay_async.PRODUCTION_URL; no credentials, no query"
        )
    try:
        parts = urlsplit(base_url)
        _ = parts.port
    except ValueError as error:
        raise ConfigurationError(f"base_url: is not a URL: {error}") from None
    host = parts.hostname or ""
    origin = f"{parts.scheme}://{parts.netloc.lower()}"
    if not is_loopback(host) and origin not in {trusted.lower().rstrip("/") for trusted in trusted_origins}:
        if parts.scheme == "http":
            raise ConfigurationError(
                f"base_url: {origin} is unencrypted, and the API token would be readable on the way; use https://, or "
                f"say trusted_origins=[{origin!r}] if that network is yours"
            )
        if not is_vendor(host):
            raise ConfigurationError(
                f"base_url: {host} is not a host of Jetpay, and the API token would be sent there; correct it, or say "
                f"trusted_origins=[{origin!r}] if that gateway is yours"
            )
    return base_url.rstrip("/")


def check_token(token: str, base_url: str) -> str:
    """Return the token, or refuse it without showing it.

    Raises:
        ConfigurationError: It is no token, or a sandbox's token on its way to Jetpay.
    """
    fault = _token_fault(token, base_url)
    if fault is not None:
        # A token that was copied badly is still one, and error reporters collect local variables.
        del token
        raise ConfigurationError(f"api_token: {fault}")
    return token


def _token_fault(token: str, base_url: str) -> str | None:
    if not isinstance(token, str):
        return f"is a str, or an async function returning one, not {type(token).__name__}"
    if not _TOKEN.fullmatch(token):
        return (
            "is empty, or holds a space, a line break or a character that no token has; copy it again from the "
            "dashboard"
        )
    if token.startswith(SANDBOX_TOKEN_PREFIX) and is_vendor(urlsplit(base_url).hostname or ""):
        return "is a sandbox's token, but base_url is Jetpay's; use the sandbox's url"
    return None


def origin(base_url: str) -> str:
    """Return the origin of a URL that was checked, the same for the same API: loopback is one, whatever its port."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if is_loopback(host):
        return "loopback"
    port = "" if parts.port in {None, _DEFAULT_PORTS[parts.scheme]} else f":{parts.port}"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def is_plain_url(url: str) -> bool:
    """Return whether every parser reads the same host in a URL: no credentials, query, or letter beyond ASCII."""
    return _PLAIN_URL.fullmatch(url) is not None


def is_vendor(host: str) -> bool:
    """Return whether a host is Jetpay's."""
    name = host.removesuffix(".")
    return name == VENDOR_DOMAIN or name.endswith(f".{VENDOR_DOMAIN}")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine and nothing else; of names, only ``localhost`` is.

    With a dot at its end, even that is a name to ask the network's resolver for.
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
