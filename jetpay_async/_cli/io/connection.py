"""How a command reaches the API: the client from the environment, with a proxy and a timeout if there are any."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import attrs

from jetpay_async._core.endpoints import PRODUCTION_URL, origin
from jetpay_async.client import JetpayClient
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ConnectionOptions"]

_PROXY_VARIABLES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
_NO_PROXY_VARIABLES = ("no_proxy", "NO_PROXY")


@attrs.frozen(kw_only=True)
class ConnectionOptions:
    """The options of every command that calls the API."""

    timeout: float | None = None
    """Seconds for each operation; the client's default if None."""
    proxy: str | None = None
    """The URL of a proxy; the one of the environment if None."""

    @property
    def origin(self) -> str:
        """The origin of the API, as a ledger records it."""
        return origin(_base_url())

    def open_client(self, **options: Any) -> JetpayClient:
        """Make the client.

        Args:
            **options: Of `JetpayClient.from_env`.

        Raises:
            ConfigurationError: The environment has no token, or the proxy's URL is not valid.
        """
        if self.proxy is not None:
            _check_proxy("argument --proxy", self.proxy)
            os.environ.update(_environment_of(self.proxy))
        elif (variable := _proxy_variable()) is not None:
            _check_proxy(*variable)
        if self.timeout is not None:
            options["timeout"] = self.timeout
        # Without a proxy the client may rely on a direct connection, and resolves lost requests earlier.
        return JetpayClient.from_env(user_agent_suffix="jetpay-cli", trust_env=_proxy_variable() is not None, **options)


def _environment_of(proxy: str) -> Mapping[str, str]:
    """Return the variables that lead every request through a proxy."""
    return {**dict.fromkeys(_PROXY_VARIABLES, proxy), **dict.fromkeys(_NO_PROXY_VARIABLES, "")}


def _check_proxy(name: str, proxy: str) -> None:
    """Refuse what can't be used: aiohttp passes over an https:// proxy and goes its way without one.

    Raises:
        ConfigurationError: It is no URL of a proxy. The message does not repeat it: it may hold a password.
    """
    try:
        parts = urlsplit(proxy)
        valid = parts.scheme == "http" and parts.hostname and parts.hostname.isprintable() and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigurationError(
            f"{name}: is not the URL of a proxy, such as http://proxy.example:3128; one that begins with https:// or "
            "socks5:// can't be used"
        )


def _base_url() -> str:
    return os.environ.get("JETPAY_BASE_URL") or PRODUCTION_URL


def _proxy_variable() -> tuple[str, str] | None:
    """Return the variable, and the proxy that it names for the API, if there is one."""
    api = urlsplit(_base_url())
    proxy = getproxies().get(api.scheme)
    if proxy is None or proxy_bypass(api.hostname or ""):
        return None
    return f"{api.scheme.upper()}_PROXY", proxy
