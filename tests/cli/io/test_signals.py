"""Ctrl-C, SIGTERM and SIGHUP, in this process: ending it is replaced."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal

import pytest

from jetpay_async._cli.io import console
from jetpay_async._cli.io.signals import ignore_signals, interrupt_on_termination, stop_on_signals


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses with which the process would have ended."""
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


def writable(monkeypatch: pytest.MonkeyPatch, *descriptors: int) -> None:
    """Let these descriptors take a message; the event loop's own waiting stays as it is."""
    monkeypatch.setattr("jetpay_async._cli.io.signals.select", FakeSelect(descriptors))


class FakeSelect:
    """Stands for the module."""

    def __init__(self, descriptors: tuple[int, ...]) -> None:
        self._descriptors = descriptors

    def select(self, *_: object) -> tuple[list[int], list[int], list[int]]:
        return [], list(self._descriptors), []


@pytest.mark.asyncio
@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
async def test_the_second_signal_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, exits: list[int], *, terminal: bool
) -> None:
    """The first signal asks to stop, the second ends the process; on a terminal the cursor is shown again."""
    written: list[bytes] = []
    stops: list[bool] = []
    monkeypatch.setattr(os, "isatty", lambda _: terminal)
    monkeypatch.setattr(os, "write", lambda _, message: written.append(message))
    writable(monkeypatch, 2)

    with stop_on_signals(lambda: stops.append(True), final_message="ended"):
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0)
        assert (exits, stops) == ([], [True])
        signal.raise_signal(signal.SIGINT)

    assert exits == [130]
    assert written[-1] == (b"\n\x1b[?25h" if terminal else b"") + b"jetpay: ended\n"


@pytest.mark.asyncio
async def test_a_stderr_that_fails_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch, exits: list[int]) -> None:
    """The second signal ends the process even if its message can't be written."""

    def fail(*_: object) -> None:
        raise OSError(errno.EPIPE, "gone")

    monkeypatch.setattr(os, "isatty", fail)
    writable(monkeypatch, 2)

    with stop_on_signals(lambda: None, final_message="ended"):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    assert exits == [130]


@pytest.mark.asyncio
async def test_a_stderr_that_blocks_gets_no_message(monkeypatch: pytest.MonkeyPatch, exits: list[int]) -> None:
    """A full pipe that nobody reads does not keep the process."""
    monkeypatch.setattr(os, "isatty", lambda _: pytest.fail("it would block"))
    writable(monkeypatch)

    with stop_on_signals(lambda: None, final_message="ended"):
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)

    assert exits == [130]


@pytest.mark.asyncio
@pytest.mark.parametrize("ignored", [signal.SIGINT, signal.SIGHUP], ids=["background job", "nohup"])
async def test_an_ignored_signal_stays_ignored(ignored: signal.Signals) -> None:
    """A shell's background job ignores Ctrl-C, and a job under nohup SIGHUP; afterwards the handlers are restored."""
    before = signal.signal(ignored, signal.SIG_IGN)
    try:
        with stop_on_signals(lambda: None, final_message=""):
            assert signal.getsignal(ignored) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(ignored, before)


@pytest.mark.asyncio
async def test_the_last_message_is_an_object_where_messages_are(
    monkeypatch: pytest.MonkeyPatch, exits: list[int]
) -> None:
    """Whoever reads JSON reads why the process ended, too, whatever stderr is connected to."""
    written: list[bytes] = []
    monkeypatch.setattr(os, "isatty", lambda _: True)
    monkeypatch.setattr(os, "write", lambda _, message: written.append(message))
    writable(monkeypatch, 2)
    console.write_messages_as_json(True)

    with stop_on_signals(lambda: None, final_message="ended"):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    assert exits == [130]
    assert json.loads(written[-1])["message"] == "ended"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN], ids=["usual", "background job"])
def test_termination_interrupts(number: signal.Signals, ctrl_c: signal.Handlers) -> None:
    """SIGTERM and SIGHUP are as Ctrl-C, also where Ctrl-C itself is ignored; afterwards they are as before."""
    signal.signal(signal.SIGINT, ctrl_c)
    before = signal.getsignal(number)

    with pytest.raises(KeyboardInterrupt), interrupt_on_termination():
        signal.raise_signal(number)

    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_reaches_the_event_loop(number: signal.Signals) -> None:
    """While a loop runs, its task is cancelled, so that what is in flight is reported."""
    cancelled: list[bool] = []

    async def wait() -> None:
        signal.raise_signal(number)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(KeyboardInterrupt), interrupt_on_termination():
        asyncio.run(wait())

    assert cancelled == [True]


def test_a_hangup_that_is_ignored_interrupts_nothing() -> None:
    """What runs under nohup goes on."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with interrupt_on_termination():
        signal.raise_signal(signal.SIGHUP)


def test_what_has_ended_is_not_interrupted() -> None:
    """Once its work is done, no signal changes the exit status of a process."""
    ignore_signals()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(number)
