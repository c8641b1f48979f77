"""The registration of an owner in the ledger: who sends, and until when it may.

Where an owner whose lease has run out counts as dead, another one takes over what it was sending. So its requests stop
earlier than that: `OwnerLease.refusal` is called when each of them is written, the last moment at which nothing has
left. It goes by the larger of the times that passed on the monotonic and on the wall clock, in case one stood still.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from jetpay_async.ledger.errors import LedgerError

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async._core.send_guard import PreSendCheck
    from jetpay_async.ledger._backend import CommitExecutor, Connection

_USED_SHARE = 0.8
"""The share of a lease in which requests may leave: clocks differ, and a write takes a moment."""

_RENEWALS = 4
"""How often a lease is renewed before it runs out."""


class OwnerLease:
    """The registration of one owner in the ledger.

    Args:
        commits: The ledger's executor.
        seconds: How long the owner counts as alive without renewing.
        clock: Wall clock and monotonic clock.
        lapses: Whether it counts as dead after that time; otherwise a lock shows that it is alive.
    """

    def __init__(self, commits: CommitExecutor, seconds: float, clock: Clock, *, lapses: bool) -> None:
        self._commits = commits
        self._seconds = seconds
        self._clock = clock
        self._lapses = lapses
        self._began = (0.0, 0.0)
        self.owner: int = 0
        """Its number in the ledger."""

    @property
    def renewed_every(self) -> float:
        """Seconds between two renewals."""
        return self._seconds / _RENEWALS

    @property
    def pre_send_check(self) -> PreSendCheck | None:
        """What is asked before each request."""
        return self.refusal if self._lapses else None

    async def take(self) -> None:
        """Register the owner.

        Raises:
            LedgerError: The ledger can't be written.
        """
        began = self._now()
        self.owner = await self._commits.run(partial(_register, lease=self._seconds))
        self._began = began

    async def keep(self) -> None:
        """Renew it if it is time to, and check that the ledger still counts this owner as alive.

        Raises:
            LedgerError: It does not, or the ledger can't be written.
        """
        # Where it does not lapse, asking costs nothing: nothing is written.
        if self._lapses and self._passed() < self.renewed_every:
            return
        began = self._now()
        if not await self._commits.run(partial(_renew, owner=self.owner, lease=self._seconds)):
            raise LedgerError(self._lost)
        self._began = began

    @property
    def _lost(self) -> str:
        why = (
            f"this process did not renew its lease of {self._seconds:g} s in time: it was paused, or cut off from the "
            "ledger"
            if self._lapses
            else "another run took this one for ended, since its lock file was removed"
        )
        return f"{why}; others may go on with its debits, so it sends nothing more: run the same again"

    def refusal(self) -> str | None:
        """Return why nothing may be sent any more, or None if requests may leave."""
        return "the lease on the debit had run out before anything left" if self._passed() >= self._limit else None

    async def leave(self) -> None:
        """Remove the owner from the ledger; any other may then take over what it was sending.

        Raises:
            LedgerError: The ledger can't be written.
        """
        await self._commits.run(partial(_leave, owner=self.owner))

    @property
    def _limit(self) -> float:
        return self._seconds * _USED_SHARE

    def _now(self) -> tuple[float, float]:
        return self._clock.monotonic(), self._clock.time()

    def _passed(self) -> float:
        monotonic, wall = self._now()
        return max(monotonic - self._began[0], wall - self._began[1])


def _register(connection: Connection, lease: float) -> int:
    return connection.register(lease)


def _renew(connection: Connection, owner: int, lease: float) -> bool:
    return connection.renew(owner, lease)


def _leave(connection: Connection, owner: int) -> None:
    connection.leave(owner)
