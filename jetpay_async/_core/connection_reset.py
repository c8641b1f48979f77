"""Make the closing of a connection reset it, while a write is under way on it.

By default the kernel goes on delivering what was written before a connection was closed, or before the process was
killed: a capture can arrive long after it was given up. With ``SO_LINGER`` at zero seconds, closing, for whatever
reason, throws away what was not delivered yet and sends a reset.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio

_FORMAT: Final = "hh" if sys.platform == "win32" else "ii"
_RESET: Final = struct.pack(_FORMAT, 1, 0)
_DELIVER: Final = struct.pack(_FORMAT, 0, 0)
_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)

# Once it is closed, a socket of asyncio raises OSError, and one of uvloop ValueError. What stands in for a socket may
# have no such method.
_CAN_NOT_BE_SET = (OSError, ValueError, AttributeError)

SWEEP_SECONDS = 1.0
"""How long an idle connection of the client's own session may go on resetting."""


class ConnectionReset(Protocol):
    """Switches connections between resetting and ordinary closing."""

    def enable(self, transport: asyncio.WriteTransport | None, owner: object) -> bool:
        """Have closing reset this connection, on behalf of this request; return whether that could be set."""
        ...

    def disable(self, transport: asyncio.WriteTransport, owner: object) -> None:
        """Have closing deliver again what was written, unless another request owns the connection by now."""
        ...

    def forget(self, transport: asyncio.WriteTransport, owner: object) -> None:
        """Leave a connection that was aborted as it is."""
        ...


class OwnConnections:
    """The connections of a session that no one else uses.

    A connection serves one request after another, and setting an option twice for each would cost more than the rest of
    the guard. So a connection that is given back goes on resetting for a moment; if it is idle at the next sweep, it is
    switched back. It has nothing to deliver then, so that only the way in which it ends is at stake.

    Args:
        loop: The event loop, for the timer of the sweep.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # The request that owns each connection that resets; None for an idle one.
        self._owners: dict[asyncio.WriteTransport, object] = {}
        self._sweeping = False

    def enable(self, transport: asyncio.WriteTransport | None, owner: object) -> bool:
        """Have closing reset this connection, on behalf of this request; return whether that could be set."""
        if transport is None:
            return False
        owners = self._owners
        if transport not in owners and not _set_linger(transport, _RESET):
            return False
        owners[transport] = owner
        if not self._sweeping:
            self._sweeping = True
            self._loop.call_later(SWEEP_SECONDS, self._sweep)
        return True

    def disable(self, transport: asyncio.WriteTransport, owner: object) -> None:
        """Have closing deliver again what was written, from the next sweep, unless another request owns it by then."""
        if self._owners.get(transport) is owner:
            self._owners[transport] = None

    def forget(self, transport: asyncio.WriteTransport, owner: object) -> None:
        """Leave a connection that was aborted as it is."""
        if self._owners.get(transport) is owner:
            del self._owners[transport]

    def sweep(self) -> None:
        """Switch back all that is idle: the session is about to be closed."""
        for transport in [transport for transport, owner in self._owners.items() if owner is None]:
            del self._owners[transport]
            _set_linger(transport, _DELIVER)

    def _sweep(self) -> None:
        self.sweep()
        self._sweeping = bool(self._owners)
        if self._sweeping:
            self._loop.call_later(SWEEP_SECONDS, self._sweep)


_owners: dict[asyncio.WriteTransport, tuple[object, int | None]] = {}
"""The request that each shared connection is reset for, and its own ``TCP_USER_TIMEOUT`` if that was changed.

A connection goes back to its pool a moment before the request that used it notices, and the next request may own it by
then. One table for the process, since clients may share a session.
"""


class SharedConnections:
    """The connections of a session that others use too: each is switched back at once.

    Args:
        unacknowledged_timeout: Seconds for which the kernel may try to deliver what was written, before it resets the
            connection: it bounds what a process can still deliver that is paused, and closes nothing.
    """

    def __init__(self, unacknowledged_timeout: float) -> None:
        self._milliseconds = to_milliseconds(unacknowledged_timeout)

    def enable(self, transport: asyncio.WriteTransport | None, owner: object) -> bool:
        """Have closing reset this connection, on behalf of this request; return whether that could be set."""
        if transport is None or not _set_linger(transport, _RESET):
            return False
        changed = _owners.get(transport, (None, None))[1]
        _owners[transport] = (owner, _set_user_timeout(transport, self._milliseconds, changed))
        return True

    def disable(self, transport: asyncio.WriteTransport, owner: object) -> None:
        """Have closing deliver again what was written, unless another request owns the connection by now."""
        entry = _owners.get(transport)
        if entry is None or entry[0] is not owner:
            return
        del _owners[transport]
        _set_linger(transport, _DELIVER)
        if entry[1] is not None:
            _set_user_timeout(transport, entry[1], entry[1])

    def forget(self, transport: asyncio.WriteTransport, owner: object) -> None:
        """Leave a connection that was aborted as it is."""
        entry = _owners.get(transport)
        if entry is not None and entry[0] is owner:
            del _owners[transport]


def _set_linger(transport: asyncio.WriteTransport, value: bytes) -> bool:
    try:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)
    except _CAN_NOT_BE_SET:
        return False
    return True


def _set_user_timeout(transport: asyncio.WriteTransport, milliseconds: int, before: int | None) -> int | None:
    """Set ``TCP_USER_TIMEOUT``; return what it was before any request of ours changed it, None if it can't be set."""
    if _USER_TIMEOUT is None:
        return None
    sock = transport.get_extra_info("socket")
    try:
        if before is None:
            before = int(sock.getsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT))
        sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, milliseconds)
    except _CAN_NOT_BE_SET:
        return None
    return before


def to_milliseconds(seconds: float) -> int:
    """What ``TCP_USER_TIMEOUT`` takes: in less than a second, a connection would end for one lost packet."""
    return round(max(1.0, seconds) * 1000)
