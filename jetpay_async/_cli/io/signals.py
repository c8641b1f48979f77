"""Ctrl-C, SIGTERM and SIGHUP: the first one asks to stop, the second one ends the process at once."""

from __future__ import annotations

import os
import select
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from jetpay_async._cli.io.console import format_message, messages_are_json
from jetpay_async._cli.io.exit_codes import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from types import FrameType

__all__ = ["ignore_signals", "interrupt_on_termination", "stop_on_signals"]

# Windows has no SIGHUP.
_TERMINATION = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_SIGNALS = [signal.SIGINT, *_TERMINATION]
_SHOW_CURSOR = b"\x1b[?25h"
_STDERR = 2


@contextmanager
def stop_on_signals(stop: Callable[[], None], *, final_message: str) -> Generator[None]:
    """Call a function on the first signal, and end the process on the second.

    Args:
        stop: Called in the event loop.
        final_message: Written to stderr on the second signal. What was in progress is left as by ``kill -9``.
    """
    # Most commands only take `interrupt_on_termination`.
    import asyncio  # noqa: PLC0415 - see above

    loop = asyncio.get_running_loop()
    stopping = False
    format_message(final_message)  # imports what it needs: a handler of signals must not wait for an import

    def receive(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal stopping
        if stopping:
            _end(format_message(final_message).encode())
        stopping = True
        loop.call_soon_threadsafe(stop)

    with _handled(_SIGNALS, receive):
        yield


@contextmanager
def interrupt_on_termination() -> Generator[None]:
    """Let SIGTERM and SIGHUP interrupt a command as Ctrl-C does: what is in flight is reported before it ends."""

    def interrupt(_: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)  # while an event loop runs, its own
        if callable(handler):
            handler(signal.SIGINT, frame)
        else:
            raise KeyboardInterrupt

    with _handled(_TERMINATION, interrupt):
        yield


@contextmanager
def _handled(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    # An ignored signal stays ignored: a shell starts its background jobs with SIGINT ignored, and nohup ignores SIGHUP.
    before = {number: signal.getsignal(number) for number in numbers}
    handled = [number for number in numbers if before[number] is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def ignore_signals() -> None:
    """Let nothing but SIGKILL and SIGQUIT change how a process ends that has done its work."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end(message: bytes) -> None:
    """End the process at once, with a message if stderr takes it without waiting.

    No lock and no buffer is used: the code that hangs may hold them.
    """
    with suppress(OSError, ValueError):
        _, writable, _ = select.select([], [_STDERR], [], 0)
        if writable:
            bar = os.isatty(_STDERR) and not messages_are_json()
            os.write(_STDERR, b"\n" + _SHOW_CURSOR + message if bar else message)
    os._exit(ExitStatus.INTERRUPTED)
