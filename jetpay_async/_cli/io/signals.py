"""Ctrl-C and SIGTERM: the first one asks to stop, the second one ends the program at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jetpay_async._cli.io.exit_codes import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import FrameType

__all__ = ["asking_to_stop"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def asking_to_stop(stop: Callable[[], None], *, last_words: str) -> Generator[None]:
    """Call a function on the first signal, and end the program with some last words on the second.

    Args:
        stop: Called in the event loop.
        last_words: Written to stderr. What was under way is like after a ``kill -9``.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def receive(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal asked
        if asked:
            # No lock and no buffer is touched: whatever the program hangs in may hold them.
            words = f"jetpay: {last_words}\n".encode()
            os.write(2, b"\n" + _SHOW_CURSOR + words if sys.stderr.isatty() else words)
            os._exit(ExitStatus.INTERRUPTED)
        asked = True
        loop.call_soon_threadsafe(stop)

    # What is ignored stays so: a shell starts its background jobs with SIGINT ignored.
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    ours = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in ours:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])
