"""Time limits that cost little where almost none expires: one timer of the event loop stands for all of them.

`asyncio.timeout` sets a timer of the loop and cancels it again, which costs more than all the rest of a quick handler.
Here a limit that is left in time costs an entry in a dictionary; the timer of the loop, once set, runs out, and is set
again only while something waits for it.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from contextvars import Context
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

NEVER = math.inf


class Alarm(ABC):
    """What is to be called at some time, unless it is stopped before: see `ring`.

    Attributes:
        when: By the time of the loop; to be set before it is started.
    """

    __slots__ = ("when",)

    when: float

    @abstractmethod
    def ring(self) -> None:
        """Do what is due. The alarm has stopped, and may be started again."""


class SharedTimer:
    """The alarms of one event loop. They ring in an empty context, as none of their own is kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._context = Context()
        self._alarms: dict[Alarm, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = NEVER

    def start(self, alarm: Alarm) -> None:
        """Have an alarm ring at its time, once; one that was started before has another time now."""
        self._alarms[alarm] = None
        if alarm.when < self._rings_at:
            self._set(alarm.when)

    def stop(self, alarm: Alarm) -> None:
        """Have an alarm ring no more, if it was to ring."""
        self._alarms.pop(alarm, None)

    def _set(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = when
        self._timer = self.loop.call_at(when, self._ring, context=self._context)

    def _ring(self) -> None:
        self._timer = None
        self._rings_at = NEVER
        now = self.loop.time()
        try:
            for alarm in tuple(self._alarms):
                # One that rings may stop another.
                if alarm.when <= now and alarm in self._alarms:
                    del self._alarms[alarm]
                    alarm.ring()
        finally:
            # Also if one raises, whose failure must not silence the others.
            earliest = min((alarm.when for alarm in self._alarms), default=NEVER)
            if earliest < self._rings_at:
                self._set(earliest)


class TimeLimit(Alarm):
    """Cancels its task while a block runs too long, and makes a TimeoutError of that, as `asyncio.timeout` does.

    Args:
        task: The task that runs the block.
        timer: By which timer.

    Attributes:
        expired: Whether it has cancelled the task.
    """

    __slots__ = ("_cancelling", "_task", "_timer", "expired")

    def __init__(self, task: asyncio.Task[Any], timer: SharedTimer) -> None:
        self._task = task
        self._timer = timer
        self.expired = False

    def ring(self) -> None:
        """Cancel the block, which has not ended yet."""
        self.expire()

    def expire(self) -> None:
        """Cancel the block now, unless it was cancelled before."""
        if not self.expired:
            self.expired = True
            self._task.cancel()

    def __enter__(self) -> Self:
        self._cancelling = self._task.cancelling()
        self._timer.start(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.stop(self)
        if (
            self.expired
            and self._task.uncancel() <= self._cancelling
            and kind is not None
            and issubclass(kind, asyncio.CancelledError)
        ):
            raise TimeoutError from error
