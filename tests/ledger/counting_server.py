"""A Jetpay that counts and does not protect itself: ``counting_server.py SETTINGS``, settings as JSON.

Each capture request that it carries out counts, also the second one for a debit: what the real service might refuse is
what the tests look for. A capture takes effect at the end of its latency, whether its client still listens or not;
until then the status says ``preauthorized``. How a request ends is drawn from the seed, the debit and the number
of the request, so the same requests meet the same responses.

It prints its URL, then answers commands, a line of JSON each: ``{"do": "totals"}`` and so on, see `Control`. It ends
when its standard input does, so it does not outlive the test.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from typing import Any, cast

import attrs
import uvloop

ROUTE = re.compile(rb"(POST|GET) /(?:debit|transaction)/([^/ ]+)/(capture|status) HTTP/1\.1\r\n")
OWNER = re.compile(rb"\r\nUser-Agent: [^ \r]+ ?([^\r]*)\r\n", re.IGNORECASE)
LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)


@attrs.frozen(kw_only=True)
class Settings:
    """Seconds, and shares of all capture requests between 0 and 1."""

    seed: int = 7
    latency: float = 0.005
    slow: float = 0.0
    """Take longer, up to `slowest`."""
    slowest: float = 3.0
    status_latency: float = 0.0
    silent: float = 0.0
    """Are never answered; half of them are carried out."""
    broken: float = 0.0
    """End in a 5xx; half of them are carried out."""
    cut: float = 0.0
    """End in a reset connection; half of them are carried out."""
    limited: float = 0.0
    """Are answered by 429, at once, and undone."""
    rejected: float = 0.0
    """Are answered by 422, at once and undone; by the debit, not by the request."""
    hold: bool = False
    """Carry a capture out right after the status was read, and after `slowest` at the latest: the worst moment."""
    record: bool = True
    """Remember when, and for whom, each capture was carried out."""


def chances(*key: object) -> tuple[float, float, float]:
    """Draw three numbers in [0, 1) that are the same each time."""
    digest = blake2b("/".join(map(str, key)).encode(), digest_size=12).digest()
    first, second, third = (int.from_bytes(digest[n : n + 4]) / 2**32 for n in (0, 4, 8))
    return first, second, third


@attrs.frozen
class PlannedResponse:
    """How a capture request ends."""

    end: str
    """``paid``, ``silent``, ``broken``, ``cut``, ``limited`` or ``rejected``."""
    done: bool
    """Whether it is carried out."""
    latency: float


def draw(settings: Settings, debit_id: str, number: int) -> PlannedResponse:
    """Draw what becomes of this request for a debit: the same each time."""
    if chances(settings.seed, debit_id)[0] < settings.rejected:
        return PlannedResponse("rejected", done=False, latency=0.0)
    which, half, slowness = chances(settings.seed, debit_id, number)
    latency = settings.latency
    if slowness < settings.slow:
        latency += slowness / settings.slow * (settings.slowest - latency)
    if (which := which - settings.limited) < 0:
        return PlannedResponse("limited", done=False, latency=0.0)
    for end, share in (("silent", settings.silent), ("broken", settings.broken), ("cut", settings.cut)):
        if (which := which - share) < 0:
            return PlannedResponse(end, half < 0.5, latency)
    return PlannedResponse("paid", done=True, latency=latency)


@attrs.define(eq=False)
class Api:
    """What it did."""

    settings: Settings
    requests: Counter[str] = attrs.Factory(Counter)
    """Capture requests by debit."""
    captures: Counter[str] = attrs.Factory(Counter)
    """Captures carried out, by debit."""
    rejections: Counter[str] = attrs.Factory(Counter)
    """Requests answered by 422, by debit."""
    effects: defaultdict[str, list[tuple[float, str]]] = attrs.Factory(lambda: defaultdict(list))
    """When each debit was captured, and for whom."""
    twice: set[str] = attrs.Factory(set)
    by_owner: dict[str, Counter[str]] = attrs.Factory(lambda: defaultdict(Counter))
    """What each client asked for: ``capture``, ``status``; and ``flying``, ``peak``: captures not yet answered."""
    sent_at: list[float] = attrs.Factory(list)
    held: defaultdict[str, list[Callable[[], None]]] = attrs.Factory(lambda: defaultdict(list))
    progress: asyncio.Event = attrs.Factory(asyncio.Event)

    def carry_out(self, debit_id: str, owner: str) -> None:
        self.captures[debit_id] += 1
        if self.captures[debit_id] > 1:
            self.twice.add(debit_id)
        if self.settings.record:
            self.effects[debit_id].append((time.time(), owner))
        self.progress.set()

    def capture(self, debit_id: str, connection: Connection) -> None:
        settings = self.settings
        owner = connection.owner
        number = self.requests[debit_id] = self.requests[debit_id] + 1
        if settings.record:
            self.sent_at.append(time.time())
        self.progress.set()
        planned = draw(settings, debit_id, number)
        if planned.end == "rejected":
            self.rejections[debit_id] += 1

        ended = False

        def end() -> None:
            nonlocal ended
            if ended:
                return
            ended = True
            if planned.done:
                self.carry_out(debit_id, owner)
            connection.end(planned, debit_id)

        latency = planned.latency
        if settings.hold and planned.done:
            self.held[debit_id].append(end)
            latency = settings.slowest
        asyncio.get_running_loop().call_later(latency, end)

    def status(self, debit_id: str, connection: Connection) -> None:
        state = "paid" if self.captures[debit_id] else "preauthorized"
        reply = partial(connection.answer, 200, {"state": state})
        if self.settings.status_latency:
            asyncio.get_running_loop().call_later(self.settings.status_latency, reply)
        else:
            reply()
        for end in self.held.pop(debit_id, []):
            asyncio.get_running_loop().call_later(0.001, end)


class Connection(asyncio.Protocol):
    """One connection of a client, which asks for one thing after the other."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._received = bytearray()
        self._flying = False
        self.owner = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of its subclasses

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._received[: end + 2])
            length = LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self._received) < whole:
                return
            del self._received[:whole]
            self._take(head)

    def _take(self, head: bytes) -> None:
        route = ROUTE.match(head)
        assert route is not None, head
        owner = OWNER.search(head)
        self.owner = owner[1].decode() if owner else ""
        asked = self._api.by_owner[self.owner]
        debit_id = route[2].decode()
        if route[3] == b"status":
            asked["status"] += 1
            self._api.status(debit_id, self)
            return
        asked["capture"] += 1
        asked["flying"] += 1
        asked["peak"] = max(asked["peak"], asked["flying"])
        self._flying = True
        self._api.capture(debit_id, self)

    def _land(self) -> None:
        if self._flying:
            self._flying = False
            self._api.by_owner[self.owner]["flying"] -= 1

    def answer(self, status: int, body: object) -> None:
        self._land()
        if self._transport.is_closing():
            return
        content = json.dumps(body).encode()
        self._transport.write(
            b"HTTP/1.1 %d Some Reason\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(content), content)
        )

    def end(self, planned: PlannedResponse, debit_id: str) -> None:
        """Answer as planned."""
        if planned.end == "paid":
            self.answer(200, {"identifier": debit_id, "state": "paid"})
        elif planned.end == "broken":
            self.answer(500 if planned.done else 503, {"detail": "Internal Server Error"})
        elif planned.end == "limited":
            self.answer(429, {"detail": "Too many requests"})
        elif planned.end == "rejected":
            self.answer(422, {"detail": [{"loc": ["path"], "msg": "declined", "type": "value_error"}]})
        elif planned.end == "cut":
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._land()


class Control:
    """Answers commands, each by a method of its name."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def totals(self) -> dict[str, Any]:
        """Say how many debits were captured, which of them twice, and what was asked for."""
        api = self._api
        return {
            "captured": len(api.captures),
            "twice": sorted(api.twice),
            "rejected": len(api.rejections),
            "requests": sum(api.requests.values()),
            "statuses": sum(asked["status"] for asked in api.by_owner.values()),
            "by_owner": api.by_owner,
        }

    async def history(self, debit_id: str) -> list[tuple[float, str]]:
        """Say when a debit was captured, and for whom."""
        return self._api.effects[debit_id]

    async def sent_at(self) -> list[float]:
        """Say when each capture request came."""
        return self._api.sent_at

    async def alter(self, **settings: float) -> None:
        """Behave differently from now on."""
        self._api.settings = attrs.evolve(self._api.settings, **settings)

    async def wait(self, *, captured: int = 0, requests: int = 0) -> None:
        """Wait until so many debits are captured, and so many requests have come."""
        api = self._api
        while len(api.captures) < captured or sum(api.requests.values()) < requests:
            api.progress.clear()
            await api.progress.wait()


def give_up(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    print(context, file=sys.stderr, flush=True)  # noqa: T201 - the test shows it
    os._exit(1)


async def main(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    # A fault of its own would count wrongly: it ends, and with it the test.
    loop.set_exception_handler(give_up)
    api = Api(settings)
    server = await loop.create_server(lambda: Connection(api), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201 - the test reads it
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    control = Control(api)

    async def obey(number: int, command: str, arguments: dict[str, Any]) -> None:
        reply = {"number": number, "reply": await getattr(control, command)(**arguments)}
        print(json.dumps(reply), flush=True)  # noqa: T201 - the test reads it

    obeying: set[asyncio.Task[None]] = set()
    while line := await commands.readline():
        task = asyncio.create_task(obey(**json.loads(line)))
        obeying.add(task)
        task.add_done_callback(obeying.discard)


if __name__ == "__main__":
    uvloop.run(main(Settings(**json.loads(sys.argv[1]))))
