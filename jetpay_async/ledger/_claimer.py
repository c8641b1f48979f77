"""Claims debits for the workers, no further ahead than they and the rate need."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import attrs

from jetpay_async.ledger import _intents
from jetpay_async.ledger._empty_scopes import EmptyScopes
from jetpay_async.ledger._intents import Claim, ClaimResult, OutcomeRecord
from jetpay_async.ledger._resolver import Origin
from jetpay_async.ledger.records import DebitState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetpay_async.ledger._backend import CommitExecutor, Connection
    from jetpay_async.ledger._context import ClientContext, Moment
    from jetpay_async.ledger._lease import OwnerLease
    from jetpay_async.ledger._recorder import Recorder
    from jetpay_async.ledger._repository import Scope
    from jetpay_async.ledger._resolver import Resolver

# Debits that wait for their status to be read, at most. Nothing more is claimed meanwhile.
RESOLVE_BACKLOG = 5_000

# What the workers take in this time is claimed ahead of them: each claim is a transaction.
CLAIM_AHEAD_SECONDS = 0.1

# However quick they are: the status of what a killed process had claimed is read before it is sent.
MAX_CLAIMED = 400


@attrs.define
class ClaimedDebit:
    """A debit to be sent."""

    claim: Claim
    start: float
    """When its slot in the rate begins; monotonic, and from before its intent was committed."""


@attrs.frozen(kw_only=True)
class ClaimLimits:
    """How much is claimed at a time."""

    size: int
    """At least, as long as so many may be in flight."""
    rate: float | None
    room: Callable[[], float]
    """How many may be in flight at present."""


class Claimer:
    """Takes debits of the scopes that it watches.

    Args:
        commits: The ledger's.
        lease: The owner.
        context: The client's.
        limits: How much is claimed at a time.
        restored: From when on a status can prove anything, if the ledger was restored from a copy.
        recorder: Takes what needs no sending, and what is given back.
        resolver: Takes what may have been sent before.
        on_nothing_left: Called when a round over all scopes brought nothing.
    """

    def __init__(
        self,
        commits: CommitExecutor,
        lease: OwnerLease,
        context: ClientContext,
        limits: ClaimLimits,
        *,
        restored: Moment | None,
        recorder: Recorder,
        resolver: Resolver,
        on_nothing_left: Callable[[], None],
    ) -> None:
        self._commits = commits
        self._lease = lease
        self._context = context
        self._limits = limits
        self._restored = restored
        self._recorder = recorder
        self._resolver = resolver
        self._on_nothing_left = on_nothing_left
        self._watchers: Counter[Scope] = Counter()
        self._empty: EmptyScopes[Scope] = EmptyScopes()
        self._pace = 0
        """How many debits the workers took while the time passed for which is claimed ahead."""
        self._refill_at = limits.size // 2
        """More is claimed when no more than so many are ahead."""
        self._taken = 0
        self._counted_from: float | None = None
        """Since when those that are taken have been counted; monotonic."""
        self.ready: asyncio.Queue[ClaimedDebit | None] = asyncio.Queue()
        """For the workers; None ends one of them."""
        self._scheduled: deque[ClaimedDebit] = deque()
        self._wanted = asyncio.Event()
        self._slots_wanted = asyncio.Event()
        self._stopping = False

    @property
    def ahead(self) -> int:
        """Debits that are claimed and not yet with a worker."""
        return self.ready.qsize() + len(self._scheduled)

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """Where debits are taken from."""
        return tuple(self._watchers)

    def watch(self, scope: Scope) -> None:
        """Claim what is in a scope from now on."""
        self._watchers[scope] += 1
        self.wake()

    def forget(self, scope: Scope) -> None:
        """Claim nothing more from a scope, unless it is watched for somebody else too."""
        self._watchers[scope] -= 1
        if not self._watchers[scope]:
            del self._watchers[scope]
            self._empty.discard(scope)

    def wake(self) -> None:
        """Have it see whether something is to be claimed, also where nothing was.

        In each poll interval, at least: another process may have added something, given it back, or got an outcome of
        a debit that a batch here has too.
        """
        self._empty.reset()
        self._wanted.set()

    def on_taken(self) -> None:
        """Have it claim more, if there is room since a worker took a debit."""
        self._taken += 1
        if self.ready.qsize() + len(self._scheduled) <= self._refill_at:
            self._wanted.set()

    def stop(self) -> None:
        """Claim nothing more, and give back what no worker has taken."""
        self._stopping = True
        self._give_back_all()
        self.wake()

    def give_back(self, claim: Claim, attempts: int = 0) -> None:
        """Let a debit be claimed again that is proven not captured by the requests made for it."""
        self._recorder.add(
            OutcomeRecord(
                claim.id,
                claim.debit_id,
                claim.intent,
                DebitState.PENDING,
                claim.attempts - 1 + attempts,
                certain_in=0.0,
            )
        )

    async def run(self) -> None:
        """Claim until it is stopped."""
        while not self._stopping:
            self._wanted.clear()
            if not (self._has_room() and await self._claim()):
                await self._wanted.wait()

    async def release_slots(self) -> None:
        """Pass each debit on when its slot in the rate begins."""
        while True:
            if not self._scheduled:
                self._slots_wanted.clear()
                await self._slots_wanted.wait()
            elif (wait := self._scheduled[0].start - self._context.clock.monotonic()) > 0:
                await self._context.clock.sleep(wait)  # meanwhile it may have been given back
            else:
                self.ready.put_nowait(self._scheduled.popleft())

    def _has_room(self) -> bool:
        return self.ahead <= self._refill_at and self._resolver.backlog < RESOLVE_BACKLOG

    async def _claim(self) -> bool:
        """Claim from the first scope that has something; return whether there was any."""
        scopes = self._empty.others(self._watchers)
        since = self._empty.moment
        claims = ClaimResult()
        if scopes:
            began = self._context.clock.monotonic()
            self._measure_pace(began)
            empty, claims = await self._commits.run(
                partial(
                    _claim_first,
                    scopes=scopes,
                    owner=self._lease.owner,
                    limit=max(1, min(self._limits.size, int(self._limits.room())), self._pace),
                    resolve=self._context.certain_after,
                    rate=self._limits.rate,
                    restored_until=None if self._restored is None else self._restored.on_ledger,
                ),
                last=True,
            )
            self._empty.add(scopes[:empty], since=since)
            if claims.send or claims.known or claims.resolve:
                self._pass_on(claims, began)
                return True
        if not claims.too_early:
            self._on_nothing_left()
        return False

    def _measure_pace(self, now: float) -> None:
        """Count what the workers have taken, as soon as the time is over for which is claimed ahead."""
        # What is claimed must begin to leave soon: most of that time is for an API that becomes slow.
        ahead = min(CLAIM_AHEAD_SECONDS, self._context.send_within / 4)
        passed = ahead if self._counted_from is None else now - self._counted_from
        if passed >= ahead:
            self._pace = min(MAX_CLAIMED, int(self._taken * ahead / passed))
            self._refill_at = max(self._limits.size, self._pace) // 2
            self._taken = 0
            self._counted_from = now

    def _pass_on(self, claims: ClaimResult, began: float) -> None:
        for record in claims.known:
            self._recorder.add(record)
        for debit in claims.resolve:
            due = self._context.clock.monotonic() + debit.wait
            if self._restored is not None:
                due = max(due, self._restored.monotonic)
            self._resolver.add(debit, due, Origin.CLAIM)
        for claim in claims.send:
            claimed = ClaimedDebit(claim, began + claim.delay)
            if self._limits.rate is None:
                self.ready.put_nowait(claimed)
            else:
                self._scheduled.append(claimed)
                self._slots_wanted.set()
        if self._stopping:
            self._give_back_all()

    def _give_back_all(self) -> None:
        while self._scheduled:
            self.give_back(self._scheduled.popleft().claim)
        ends = 0
        while not self.ready.empty():
            claimed = self.ready.get_nowait()
            if claimed is None:
                ends += 1
            else:
                self.give_back(claimed.claim)
        for _ in range(ends):
            self.ready.put_nowait(None)


def _claim_first(
    connection: Connection,
    *,
    scopes: Sequence[Scope],
    owner: int,
    limit: int,
    resolve: float,
    rate: float | None,
    restored_until: float | None,
) -> tuple[int, ClaimResult]:
    """Claim from the first of these scopes that has something; return how many had nothing before it, too."""
    for empty, scope in enumerate(scopes):
        claims = _intents.claim(
            connection, scope, owner=owner, limit=limit, resolve=resolve, rate=rate, restored_until=restored_until
        )
        if claims != ClaimResult():
            return empty, claims
    return len(scopes), ClaimResult()
