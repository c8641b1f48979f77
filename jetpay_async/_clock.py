"""Time and chance, as one argument."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import attrs

__all__ = ["SYSTEM_CLOCK", "Clock"]


@attrs.frozen(kw_only=True)
class Clock:
    """Where the client takes time and chance from. Replace parts of it in tests.

    Attributes:
        monotonic: Seconds that never go back, for deadlines and ``elapsed``.
        time: Seconds since the epoch, for what people read and for HTTP dates.
        sleep: Wait for some seconds.
        random: A number in [0, 1), for the jitter.
    """

    monotonic: Callable[[], float] = time.monotonic
    time: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random


SYSTEM_CLOCK = Clock()
