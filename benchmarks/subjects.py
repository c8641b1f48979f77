"""A variant in a process of its own: its imports, its heap and its connections meet no other variant's.

The process waits, using no CPU, until its turn comes. Turns are kept short, and a round has several of each variant's:
the speed of a shared machine changes by the second, and by more than what is to be found out.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import multiprocessing
import os
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, nullcontext
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self
from unittest.mock import patch

import attrs
import uvloop

from benchmarks import measuring
from benchmarks.measuring import Comparison, Turn
from benchmarks.serving import Server

ENOUGH = 64
"""Operations that warm a variant up, and show roughly what one costs."""

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop] | None] = {
    "asyncio": None,
    "uvloop": uvloop.new_event_loop,
}


@attrs.frozen(kw_only=True)
class Site:
    """Where a variant works."""

    url: str
    in_flight: int
    loop: str


async def _nothing(_: int) -> None:
    pass


@attrs.frozen(kw_only=True)
class Work:
    """What a variant does: a number of operations."""

    run: Callable[[int], Awaitable[None]]
    """The measured part."""
    prepare: Callable[[int], Awaitable[None]] = _nothing
    """What has to be done before, for the same number, and is not measured."""


Contender = Callable[[Site], AbstractAsyncContextManager[Work]]
"""Opens a variant; an ``@asynccontextmanager`` of a module, so that another process can import it."""


def repeated(operation: Callable[[str], Awaitable[object]], in_flight: int) -> Work:
    """Have a fixed number of workers repeat an operation on one debit after the other."""
    fresh = itertools.count()

    async def run(count: int) -> None:
        numbers = itertools.islice(fresh, count)

        async def work() -> None:
            for number in numbers:
                await operation(f"debit_{number:07}")

        await asyncio.gather(*(work() for _ in range(in_flight)))

    return Work(run=run)


LEAST_ROUNDS = 3
"""However little time there is."""

# Seconds after which a variant may have closed its connections; the first to do so does after four.
IDLE_SECONDS = 3.0


class MiscountError(Exception):
    """The server counted other requests than were made."""


# asyncio asks for a buffer of 256 KiB for each read. Whether glibc gives it back to the system each time, and takes it
# again with two page faults, is a matter of luck in a process's layout: it costs one process a fifth more than another
# of the same code. No variant is to be lucky.
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "33554432"}


class Subject:
    """A variant in its process.

    Args:
        contender: The variant.
        pinned: Whether it stays on the clients' core; several that work at the same time would only take turns there.
    """

    def __init__(self, contender: Contender, *, pinned: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve_turns, args=(theirs, contender, pinned), daemon=True)
        with patch.dict(os.environ, _KEEP_MEMORY):  # glibc reads them when a process begins
            self._process.start()
        theirs.close()

    def open(self, site: Site) -> None:
        """Start it, in a new event loop; `await_open` waits for it."""
        self._pipe.send(("open", site))

    def await_open(self) -> None:
        """Wait until it is open."""
        self._receive()

    def warm(self, count: int) -> Turn:
        """Take a turn, after which growth is counted from anew."""
        self._pipe.send(("warm", count))
        return self._receive()

    def turn(self, count: int) -> Turn:
        """Do a number of operations, and return what they cost."""
        self.begin_turn(count)
        return self.await_turn()

    def begin_turn(self, count: int) -> None:
        """Begin a turn; others may take theirs meanwhile."""
        self._pipe.send(("turn", count))

    def await_turn(self) -> Turn:
        """Wait for the end of a turn, and return what it cost."""
        return self._receive()

    def shut(self) -> None:
        """Close what was opened, and end the event loop."""
        self._pipe.send(("shut", None))
        self._receive()

    def _receive(self) -> Turn:
        answer = self._pipe.recv()
        if isinstance(answer, Turn):
            return answer
        raise RuntimeError(f"a variant failed:\n{answer}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


_DONE = Turn(operations=0, cpu=0.0, wall=0.0)


def _serve_turns(pipe: Connection, contender: Contender, pinned: bool) -> None:  # noqa: FBT001 - a process's target
    """Obey orders until the pipe closes."""
    base = 0
    with measuring.on_core(measuring.CLIENT_CORE) if pinned else nullcontext(), ExitStack() as stack:
        runner: asyncio.Runner
        opened: AbstractAsyncContextManager[Work]
        work: Work
        while True:
            try:
                order, argument = pipe.recv()
            except (EOFError, ConnectionResetError):
                return
            answer: Turn | str = _DONE
            try:
                match order:
                    case "open":
                        runner = stack.enter_context(asyncio.Runner(loop_factory=LOOPS[argument.loop]))
                        opened = contender(argument)
                        work = runner.run(opened.__aenter__())
                    case "warm":
                        answer = _turn(runner, work, argument, base)
                        gc.collect()
                        base = measuring.memory()
                    case "turn":
                        answer = _turn(runner, work, argument, base)
                    case "shut":
                        runner.run(opened.__aexit__(None, None, None))
                        stack.close()
            except Exception:  # noqa: BLE001 - reported to the process that asked
                answer = traceback.format_exc()
            pipe.send(answer)


def _turn(runner: asyncio.Runner, work: Work, count: int, base: int) -> Turn:
    runner.run(_wait_for(work.prepare(count)))
    measuring.forget_peak()
    began, at = measuring.cpu(), time.perf_counter()
    runner.run(_wait_for(work.run(count)))
    used, wall = measuring.cpu() - began, time.perf_counter() - at
    growth = max(0, measuring.peak_memory() - base)
    return Turn(operations=count, cpu=used, wall=wall, growth=growth)


async def _wait_for(awaitable: Awaitable[None]) -> None:
    await awaitable


@contextmanager
def started(contenders: Mapping[str, Contender]) -> Iterator[dict[str, Subject]]:
    """Start a process for each variant, all at once."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(Subject(contender)) for name, contender in contenders.items()}


@contextmanager
def opened(subjects: Mapping[str, Subject], site: Site) -> Iterator[None]:
    """Open every variant at a site, and close it afterwards."""
    for subject in subjects.values():
        subject.open(site)
    for subject in subjects.values():
        subject.await_open()
    yield
    for subject in subjects.values():
        subject.shut()


def compare(
    title: str,
    subjects: Mapping[str, Subject],
    site: Site,
    server: Server,
    *,
    baseline: str,
    rounds: int,
    seconds: float = 0.0,
    slices: int = 1,
    operations: int = 0,
    by: str = "cost",
    idle: float = IDLE_SECONDS,
    drawn: bool = True,
    ends_at: float = math.inf,
) -> Comparison:
    """Compare variants at a site.

    A variant that was idle for long begins with as many operations as there may be in flight, which are not measured:
    every connection is open then. The server's own count must confirm each turn.

    Args:
        title: What is asked.
        subjects: Variants, by name.
        site: Where they work.
        server: Who counts.
        baseline: The variant that the others are shown against.
        rounds: How many ratios there will be.
        seconds: CPU of each variant in each round; what it can do in that is found out first.
        slices: How often the variants take turns inside a round.
        operations: How much each does in a turn, instead.
        by: What is compared.
        idle: Seconds after which a variant opens its connections again before its turn.
        drawn: Whether the result is worth a picture.
        ends_at: When to begin no further round that would not end in time, by `time.monotonic`; the first few are made.
    """
    rounds_of: dict[str, list[Turn]] = {name: [] for name in subjects}
    connect = site.in_flight

    def counted(take: Callable[[int], Turn], count: int) -> Turn:
        before = server.requests()
        turn = take(count)
        if (counted := server.requests() - before) != count:
            raise MiscountError(f"{title}: {counted} requests arrived for {count} operations")
        return turn

    with opened(subjects, site):
        counts: dict[str, int] = {}
        idle_since: dict[str, float] = {}
        for name, subject in subjects.items():
            counted(subject.turn, connect)
            cost = counted(subject.warm, ENOUGH).cost / 1e6
            counts[name] = operations or max(connect, min(20_000, round(seconds / slices / max(cost, 1e-6))))
            idle_since[name] = time.monotonic()
        began = time.monotonic()
        for number in range(rounds):
            if number >= LEAST_ROUNDS and time.monotonic() + (time.monotonic() - began) / number > ends_at:
                break
            taken: dict[str, list[Turn]] = {name: [] for name in subjects}
            for name in measuring.alternate(list(subjects), slices, first=number):
                if time.monotonic() - idle_since[name] > idle:
                    counted(subjects[name].turn, connect)
                taken[name].append(counted(subjects[name].turn, counts[name]))
                idle_since[name] = time.monotonic()
            for name, turns in taken.items():
                rounds_of[name].append(Turn.of(turns))
    return Comparison(title=title, turns=rounds_of, baseline=baseline, by=by, drawn=drawn)
