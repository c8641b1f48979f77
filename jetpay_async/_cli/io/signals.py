"""Ctrl-C, SIGTERM and SIGHUP: the first one asks to stop, the second one ends the process at once."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from jetpay_async._cli.io.exit_codes import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

__all__ = ["stop_on_signals"]

# Windows has no SIGHUP.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_SHOW_CURSOR = b"\x1b[?25h"
_STDERR = 2


@contextmanager
def stop_on_signals(stop: Callable[[], None], *, final_message: str) -> Generator[None]:
    """Call a function on the first signal, and end the process on the second.

    Args:
        stop: Called in the event loop.
        final_message: Written to stderr on the second signal. What was in progress is left as by ``kill -9``.
    """
    loop = asyncio.get_running_loop()
    stopping = False

    def receive(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal stopping
        if stopping:
            message = f"jetpay: {final_message}\n".encode()
            _end(message)
        stopping = True
        loop.call_soon_threadsafe(stop)

    # An ignored signal stays ignored: a shell starts its background jobs with SIGINT ignored, and nohup ignores SIGHUP.
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def _end(message: bytes) -> None:
    """End the process at once, with a message if stderr takes it without waiting.

    No lock and no buffer is used: the code that hangs may hold them.
    """
    with suppress(OSError, ValueError):
        _, writable, _ = select.select([], [_STDERR], [], 0)
        if writable:
            os.write(_STDERR, b"\n" + _SHOW_CURSOR + message if os.isatty(_STDERR) else message)
    os._exit(ExitStatus.INTERRUPTED)
