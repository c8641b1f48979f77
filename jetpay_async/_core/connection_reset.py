"""Make the closing of a connection reset it, while a write is under way on it.

By default the kernel goes on delivering what was written before a connection was closed, or before the process was
killed: a capture can arrive long after it was given up. With ``SO_LINGER`` at zero seconds, closing, for whatever
reason, throws away what was not delivered yet and sends a reset.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import asyncio

_FORMAT: Final = "hh" if sys.platform == "win32" else "ii"
_RESET: Final = struct.pack(_FORMAT, 1, 0)
_DELIVER: Final = struct.pack(_FORMAT, 0, 0)
_USER_TIMEOUT: Final[int | None] = getattr(socket, "TCP_USER_TIMEOUT", None)

# Once it is closed, a socket of asyncio raises OSError, and one of uvloop ValueError. What stands in for a socket may
# have no such method.
_CAN_NOT_BE_SET = (OSError, ValueError, AttributeError)

_Owners: TypeAlias = "dict[asyncio.WriteTransport, tuple[object, int | None]]"
"""The request that each connection is reset for, and the connection's own ``TCP_USER_TIMEOUT`` if that was changed.

A connection goes back to its pool a moment before the request that used it notices, and the next request may own it by
then.
"""

_of_given_sessions: _Owners = {}
"""One table for the process, since clients may share a session."""


class ConnectionReset:
    """Switches connections between resetting and ordinary closing.

    Args:
        unacknowledged_timeout: Seconds for which the kernel may try to deliver what was written, before it resets the
            connection: it bounds what a process can still deliver that is paused, and closes nothing. None for the
            connections of the client's own session, which are made with it.
    """

    def __init__(self, unacknowledged_timeout: float | None = None) -> None:
        self._milliseconds: int | None = None
        # Of the client's own session, it must not outlive the client: when an event loop ends for good, the requests
        # under way on it are reported once nothing refers to them any more.
        self._owners: _Owners = {} if unacknowledged_timeout is None else _of_given_sessions
        if unacknowledged_timeout is not None and _USER_TIMEOUT is not None:
            self._milliseconds = to_milliseconds(unacknowledged_timeout)

    def enable(self, transport: asyncio.WriteTransport | None, owner: object) -> bool:
        """Have closing reset this connection, on behalf of this request; return whether that could be set."""
        if transport is None:
            return False
        sock = transport.get_extra_info("socket")
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except _CAN_NOT_BE_SET:
            return False
        changed = None if self._milliseconds is None else self._limit(sock, transport)
        self._owners[transport] = (owner, changed)
        return True

    def disable(self, transport: asyncio.WriteTransport, owner: object) -> None:
        """Have closing deliver again what was written, unless another request owns the connection by now."""
        entry = self._owners.get(transport)
        if entry is None or entry[0] is not owner:
            return
        del self._owners[transport]
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(*_CAN_NOT_BE_SET):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DELIVER)
            if entry[1] is not None and _USER_TIMEOUT is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, entry[1])

    def forget(self, transport: asyncio.WriteTransport, owner: object) -> None:
        """Leave a connection that was aborted as it is."""
        entry = self._owners.get(transport)
        if entry is not None and entry[0] is owner:
            del self._owners[transport]

    def _limit(self, sock: Any, transport: asyncio.WriteTransport) -> int | None:
        """Set ``TCP_USER_TIMEOUT``; return what it was before any request of ours changed it."""
        changed = self._owners.get(transport, (None, None))[1]
        with contextlib.suppress(*_CAN_NOT_BE_SET):
            if changed is None:
                changed = int(sock.getsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT))
            sock.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, self._milliseconds)
        return changed


def to_milliseconds(seconds: float) -> int:
    """What ``TCP_USER_TIMEOUT`` takes: in less than a second, a connection would end for one lost packet."""
    return round(max(1.0, seconds) * 1000)
