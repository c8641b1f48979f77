"""Who may call, and where deliveries may go: names of hosts and networks. Pure."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING

from yarl import URL

from jetpay_async._core.endpoints import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ANY_HOST", "CallbackHosts", "HostNames", "host_name", "is_loopback_peer"]

ANY_HOST = "*"
"""Stands for every host."""


class HostNames:
    """The names under which the sandbox may be called.

    A page of a stranger's site can let its own name resolve to this machine (DNS rebinding); the ``Host`` header still
    has that name. An address can't be rebound, so every address is accepted, as is ``localhost``, and a request that
    has no such header, since browsers send it.

    Args:
        names: Further names, or `ANY_HOST`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower() for name in names}

    def allow(self, host_header: str) -> bool:
        """Return whether a ``Host`` header names the sandbox."""
        name = host_name(host_header)
        return ANY_HOST in self._names or name in self._names or name in {"", "localhost"} or _address(name) is not None


class CallbackHosts:
    """The hosts that deliveries may go to: this machine, and those that are named.

    Args:
        allowed: Names of hosts, addresses, networks such as ``172.16.0.0/12``, or `ANY_HOST`. A network covers
            addresses in URLs; names are not resolved.

    Raises:
        ValueError: A network is not valid.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        texts = [text.lower().strip("[]") for text in allowed]
        self._names = {text for text in texts if "/" not in text}
        self._networks = [ipaddress.ip_network(text) for text in texts if "/" in text]

    def allow(self, callback_url: str) -> bool:
        """Return whether deliveries may go to a URL."""
        host = (URL(callback_url).host or "").lower()
        address = _address(host)
        return (
            ANY_HOST in self._names
            or host in self._names
            or is_loopback(host)
            or (address is not None and any(address in network for network in self._networks))
        )


def host_name(host_header: str) -> str:
    """Return the name in a ``Host`` header, without the port and the brackets of an IPv6 address."""
    name = host_header.strip().lower()
    if name.startswith("["):
        address, _, rest = name[1:].partition("]")
        return address if not rest or rest.startswith(":") else name
    return name.partition(":")[0]


def is_loopback_peer(address: str | None) -> bool:
    """Return whether a connection comes from this machine."""
    parsed = _address((address or "").removeprefix("::ffff:"))
    return parsed is not None and parsed.is_loopback


@lru_cache(maxsize=256)  # every request is asked for its Host, mostly for the same one
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
