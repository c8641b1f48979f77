"""Time and chance, as one argument."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial

import attrs

__all__ = ["SYSTEM_CLOCK", "Clock"]


_BOOT_TIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)
_monotonic = time.monotonic if _BOOT_TIME is None else partial(time.clock_gettime, _BOOT_TIME)


@attrs.frozen(kw_only=True, eq=False)
class Clock:
    """Where the client takes time and chance from. Replace parts of it in tests.

    Attributes:
        monotonic: Seconds that never go back, for deadlines and ``elapsed``. On Linux they go on while the machine is
            suspended, so that a request does not leave hours late when it wakes up.
        time: Seconds since the epoch, for what people read and for HTTP dates.
        sleep: Wait for some seconds.
        random: A number in [0, 1), for the jitter.
    """

    monotonic: Callable[[], float] = _monotonic
    time: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random


SYSTEM_CLOCK = Clock()
