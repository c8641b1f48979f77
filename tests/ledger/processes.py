"""The processes of a test: one that counts captures, and those that run a batch against it, to be killed and paused.

All of them end with the block that they were started in, and at the latest when the test's own process ends.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from tests.ledger import counting_server, runner

logger = logging.getLogger(__name__)

_LINE_LIMIT = 256 * 1024 * 1024


async def _start(script: str, arguments: str, *, errors: Path | None = None) -> asyncio.subprocess.Process:
    stderr = None if errors is None else errors.open("ab")
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"tests.ledger.{Path(script).stem}",
            arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            cwd=Path(__file__).parents[2],
            limit=_LINE_LIMIT,
        )
    finally:
        if stderr is not None:
            stderr.close()


@attrs.define(eq=False)
class CountingApi:
    """The counting server; its methods are those of `counting_server.Control`."""

    process: asyncio.subprocess.Process
    url: str
    waiting: dict[int, asyncio.Future[Any]] = attrs.Factory(dict)
    number: int = 0

    async def ask(self, command: str, **arguments: Any) -> Any:
        self.number += 1
        number = self.number
        reply = self.waiting[number] = asyncio.get_running_loop().create_future()
        assert self.process.stdin is not None
        question = {"number": number, "command": command, "arguments": arguments}
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        return await reply

    async def totals(self) -> dict[str, Any]:
        totals: dict[str, Any] = await self.ask("totals")
        return totals

    async def wait(self, *, captured: int = 0, requests: int = 0) -> None:
        await self.ask("wait", captured=captured, requests=requests)

    async def listen(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            answer = json.loads(line)
            reply = self.waiting.pop(answer["number"])
            if not reply.done():
                reply.set_result(answer["reply"])
        for reply in self.waiting.values():
            if not reply.done():
                reply.set_exception(RuntimeError("the counting server ended"))


@asynccontextmanager
async def counting_api(**settings: Any) -> AsyncIterator[CountingApi]:
    """Run a counting server with these `counting_server.Settings`."""
    process = await _start(counting_server.__file__, json.dumps(settings))
    assert process.stdout is not None
    try:
        api = CountingApi(process, (await process.stdout.readline()).decode().strip())
        listening = asyncio.create_task(api.listen())
        yield api
    finally:
        process.kill()
        await process.wait()
    await listening


@attrs.define(eq=False)
class Runner:
    """A process that runs the batch; it may be started again and again."""

    options: runner.Options
    errors: Path
    script: str = runner.__file__
    process: asyncio.subprocess.Process | None = None
    said: list[dict[str, Any]] = attrs.Factory(list)
    """By the process that was started last."""
    lives: int = 0
    listening: asyncio.Task[None] | None = None
    heard: asyncio.Event = attrs.Factory(asyncio.Event)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        assert not self.running
        self.lives += 1
        self.said = []
        self.process = await _start(self.script, json.dumps(attrs.asdict(self.options)), errors=self.errors)
        self.listening = asyncio.create_task(self._listen(self.process))
        self.listening.add_done_callback(lambda _: self.heard.set())

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            with suppress(json.JSONDecodeError):  # cut off by kill -9
                self.said.append(json.loads(line))
            self.heard.set()
        await process.wait()

    async def says(self, what: str) -> dict[str, Any]:
        """Wait until it says so."""
        while True:
            ended = self.listening is None or self.listening.done()
            for said in self.said:
                if said["said"] == what:
                    return said
            assert not ended, f"it never said {what!r}, but {self.said}: {self.errors.read_text()[-5000:]}"
            self.heard.clear()
            await self.heard.wait()

    async def end(self) -> dict[str, Any]:
        """Wait until it ends; return what it said last."""
        assert self.process is not None
        assert self.listening is not None
        await asyncio.shield(self.listening)
        if self.process.returncode not in {0, -signal.SIGKILL, -signal.SIGTERM} and not self._was_pruned():
            raise AssertionError(f"it ended with {self.process.returncode}: {self.errors.read_text()[-5000:]}")
        return self.said[-1] if self.said else {"said": "nothing"}

    def _was_pruned(self) -> bool:
        """Whether procrastinate has forgotten this worker while it stood still; its next job then ends the process."""
        return "procrastinate_jobs_worker_id_fkey" in self.errors.read_text()

    def send(self, what: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(what)

    async def pause(self, seconds: float) -> None:
        """Let it stand still for so long."""
        process = self.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):  # killed meanwhile
                process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """End it, now."""
        process = self.process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def pipeline(
    api: CountingApi,
    directory: Path,
    size: int = 1,
    *,
    debits: int,
    ledger: str | None = None,
    script: str = runner.__file__,
    **options: Any,
) -> AsyncIterator[list[Runner]]:
    """Make so many runners of one batch on one ledger, to be started."""
    ledger = str(directory / "captures.db") if ledger is None else ledger
    runners = [
        Runner(
            runner.Options(name=f"runner-{n}", url=api.url, ledger=ledger, debits=debits, **options),
            directory / f"runner-{n}.log",
            script,
        )
        for n in range(size)
    ]
    async with AsyncExitStack() as stack:
        for each in runners:
            stack.push_async_callback(each.kill)
        yield runners


async def keep_running(each: Runner) -> dict[str, Any]:
    """Start it again, as a supervisor would, until the batch is done and nothing is unknown."""
    while True:
        await each.start()
        last = await each.end()
        logger.info("%s, life %d: %s", each.options.name, each.lives, last)
        if last["said"] == "done" and not last["unknown"]:
            return last
        await asyncio.sleep(0.05)


async def keep_alive(each: Runner) -> None:
    """Start it again whenever it ends, until cancelled."""
    while True:
        await each.start()
        last = await each.end()
        logger.info("%s, life %d: %s", each.options.name, each.lives, last)


async def kill_at_random(api: CountingApi, runners: list[Runner], kills: int, chance: random.Random) -> int:
    """Kill one at a time, spread over the whole batch; return how many really were running."""
    debits = runners[0].options.debits
    done = 0
    for captured in sorted(chance.sample(range(debits - 1), kills)):
        await api.wait(captured=captured)
        await asyncio.sleep(chance.choice((0.0, chance.random() * 0.05, chance.random())))
        victim = await one_that_runs(runners, chance)
        await victim.kill()
        done += 1
        logger.info("killed %s after %d captures", victim.options.name, captured)
    return done


async def make_trouble(
    api: CountingApi, runners: list[Runner], count: int, chance: random.Random, lease: float
) -> Counter[str]:
    """Kill, pause, or end one at a time, spread over the whole batch; return what was done."""
    done: Counter[str] = Counter()
    waking: set[asyncio.Task[None]] = set()
    kinds = itertools.cycle(("paused", "killed", "ended"))
    for captured in sorted(chance.sample(range(runners[0].options.debits - 1), count)):
        await api.wait(captured=captured)
        await asyncio.sleep(chance.random() * 0.05)
        kind = next(kinds)
        victim = await one_that_runs(runners, chance)
        if kind == "paused":
            waking.add(asyncio.create_task(victim.pause(chance.uniform(1.0, 3.0) * lease)))
        else:
            victim.send(signal.SIGKILL if kind == "killed" else signal.SIGTERM)
        done[kind] += 1
        logger.info("%s: %s after %d captures", victim.options.name, kind, captured)
    await asyncio.gather(*waking)
    return done


async def one_that_runs(runners: list[Runner], chance: random.Random) -> Runner:
    """Choose one, and wait until it runs."""
    while not (running := [each for each in runners if each.running]):
        await asyncio.sleep(0.01)
    return chance.choice(running)
