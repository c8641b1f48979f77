"""A batch run to be killed: ``runner.py OPTIONS``, options as JSON, see `Options`.

It submits the batch, follows it to its end and says on standard output how it goes, a line of JSON each: ``opened``,
``submitted``, and at last ``done``, ``stopped`` or ``failed``. It ends when its standard input does, so it does not
outlive the test.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from jetpay_async import JetpayClient, RetryPolicy
from jetpay_async._core.clock import Clock
from jetpay_async._core.send_guard import SendGuard
from jetpay_async.ledger import CapturesStoppedError, LedgerError, _group_commit, _intents, _repository, _sqlite

if TYPE_CHECKING:
    from jetpay_async.ledger._backend import Connection

KEY = "2026-11-22"


@attrs.frozen(kw_only=True)
class Options:
    """What to run, and what to switch off for it."""

    name: str
    url: str
    ledger: str
    key: str = KEY
    debits: int
    concurrency: int = 16
    rate: float | None = None
    timeout: float = 3.0
    resolve_after: float = 0.7
    lease_seconds: float = 1.5
    clock: float = 0.0
    """Seconds by which its clock is ahead of the others'."""
    fork: bool = False
    """Leave a child behind that holds all that a fork inherits."""
    pre_send_check: bool = True
    resolve: bool = True
    pause_at: int | None = None
    """Pause before the bytes of this capture request (1, 2, ...) leave: the worst moment."""
    largest_file: int | None = None
    """Bytes: the disk is full then."""
    busy_timeout: float | None = None
    """Seconds to wait for another process that holds the file."""
    user: int | None = None
    """Become this user before the ledger is opened."""


def say(what: str, **more: object) -> None:
    print(json.dumps({"said": what, **more}), flush=True)  # noqa: T201 - the test reads it


def debit_ids(count: int) -> Iterator[str]:
    return (f"debit-{n:07}" for n in range(count))


def end_with_the_test() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def fork() -> int:
    child = os.fork()
    if child:
        return child
    os.closerange(0, 3)  # or the test would wait for what it says
    time.sleep(60)
    os._exit(0)


def let_everything_leave() -> None:
    """Switch the check before each request off: neither a lease nor a deadline keeps a request from leaving."""

    def begin(guard: SendGuard, transport: asyncio.Transport | None) -> None:
        guard.started_at = time.monotonic()

    SendGuard.begin = begin  # type: ignore[method-assign] # that is the point


def believe_any_status() -> None:
    """Switch the resolve time off: what a dead run left in doubt is resolved at once."""
    take_over = _intents.take_over

    def take_over_at_once(
        connection: Connection, scopes: Sequence[_repository.Scope], **options: Any
    ) -> list[_intents.UnresolvedDebit]:
        return [attrs.evolve(debit, wait=0.0) for debit in take_over(connection, scopes, **options)]

    _intents.take_over = take_over_at_once


def pause_before(number: int) -> None:
    """Stop the process, as SIGSTOP or a suspended machine would, when this request is about to leave.

    Not in a transaction, whose locks would keep the others from going on.
    """
    begin = SendGuard.begin
    transact = _group_commit.GroupCommitExecutor._transact
    no_transaction = threading.Lock()
    count = 0

    def transact_or_pause(
        commits: _group_commit.GroupCommitExecutor, connection: Connection, queued: list[Any]
    ) -> list[Any]:
        with no_transaction:
            return transact(commits, connection, queued)

    def begin_or_pause(guard: SendGuard, transport: asyncio.Transport | None) -> None:
        nonlocal count
        count += 1
        if count == number:
            with no_transaction:
                say("paused")
                os.kill(os.getpid(), signal.SIGSTOP)
        begin(guard, transport)

    _group_commit.GroupCommitExecutor._transact = transact_or_pause  # type: ignore[method-assign] # that is the point
    SendGuard.begin = begin_or_pause  # type: ignore[method-assign] # that is the point


def make_client(options: Options) -> JetpayClient:
    return JetpayClient(
        "token-of-a-test",
        base_url=options.url,
        timeout=options.timeout,
        retry=RetryPolicy(
            resolve_after=options.resolve_after,
            resolve_after_timeout=options.resolve_after,
            base_delay=0.05,
            max_delay=0.4,
        ),
        user_agent_suffix=options.name,
        max_connections=options.concurrency * 2,
        clock=Clock(time=lambda: time.time() + options.clock),
    )


async def run(options: Options) -> None:
    client = make_client(options)
    captures = client.durable_captures(
        options.ledger, concurrency=options.concurrency, rate=options.rate, lease_seconds=options.lease_seconds
    )
    if options.user is not None:
        os.setuid(options.user)
    began = time.monotonic()
    async with client, captures:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, captures.stop)
        say("opened")
        if options.fork:
            say("forked", pid=fork())
        batch = await captures.submit(options.key, debit_ids(options.debits))
        say("submitted", seconds=time.monotonic() - began)
        kinds: Counter[str] = Counter()
        seen = 0
        async for outcome in batch.outcomes():
            kinds[type(outcome).__name__] += 1
            seen += 1
            if seen % 100_000 == 0:
                say("progress", seconds=time.monotonic() - began, cpu=time.process_time(), peak=peak())
        report = await batch.wait()
    say(
        "done",
        total=report.total,
        captured=report.captured,
        rejected=report.rejected,
        unknown=report.unknown,
        outcomes=kinds,
        seconds=time.monotonic() - began,
        peak=peak(),
    )


def peak() -> float:
    """The most memory that this program ever had, in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024  # type: ignore[index] # it is there
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def main(options: Options) -> None:
    threading.Thread(target=end_with_the_test, daemon=True).start()
    if not options.pre_send_check:
        let_everything_leave()
    if not options.resolve:
        believe_any_status()
    if options.pause_at is not None:
        pause_before(options.pause_at)
    if options.busy_timeout is not None:
        _sqlite._BUSY_TIMEOUT_SECONDS = options.busy_timeout
    if options.largest_file is not None:
        sys.dont_write_bytecode = True  # what is imported from now on would be cut off on the disk, for all who come
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.largest_file, options.largest_file))
    try:
        asyncio.run(run(options))
    except CapturesStoppedError as error:
        say("stopped", message=str(error), cause=repr(error.__cause__))
    except LedgerError as error:
        say("failed", error=type(error).__name__, message=str(error), cause=repr(error.__cause__))


if __name__ == "__main__":
    main(Options(**json.loads(sys.argv[1])))
