"""Receivers as processes of their own, which a test kills, stalls, ends and starts again."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from tests.webhooks.serving import PATH, listen

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence
    from pathlib import Path

TROUBLES = ("killed", "stalled", "ended")


@attrs.define
class ReceiverProcess:
    """A receiver process, which may be started again and again at the same address.

    Attributes:
        script: Run with its port and the arguments.
        arguments: What the script is given besides.
        log: Where its standard error goes.
    """

    script: str
    arguments: Sequence[str]
    log: Path
    port: int = attrs.field(init=False)
    process: asyncio.subprocess.Process = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        # Below the ports that this machine gives to connections: one of those could take a dead receiver's place.
        for self.port in random.sample(range(20_000, 32_000), 100):
            with suppress(OSError), listen(self.port):
                break

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, self.script, str(self.port), *self.arguments, stderr=log
            )

    async def end(self, how: signal.Signals) -> None:
        assert self.process.returncode is None, f"it ended by itself: {self.log}"
        self.process.send_signal(how)
        await self.process.wait()

    async def stall(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.process.send_signal(signal.SIGCONT)


async def make_trouble(
    receivers: Sequence[ReceiverProcess],
    chance: random.Random,
    done: Counter[str],
    enough: asyncio.Event,
    *,
    stall_seconds: float,
    pause_seconds: tuple[float, float] = (0.3, 0.8),
) -> None:
    """Kill, stall and end receivers at random, until it is enough; whoever was ended is running again then."""
    while not enough.is_set():
        await asyncio.sleep(chance.uniform(*pause_seconds))
        receiver = chance.choice(receivers)
        kind = chance.choice(TROUBLES)
        if kind == "stalled":
            await receiver.stall(chance.uniform(stall_seconds / 2, stall_seconds))
        else:
            await receiver.end(signal.SIGKILL if kind == "killed" else signal.SIGTERM)
            await receiver.start()
        done[kind] += 1
