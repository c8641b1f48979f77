"""How many calls a second does the sandbox serve on one core? ``python -m benchmarks.sandbox``.

``jetpay sandbox`` runs in a process of its own, on one core. What asks it runs beside it and is nothing but sockets, so
that the sandbox is what is measured. Wall clock: a machine that does something else at the time shows less. So the
calls for each second of processor time that the sandbox took are printed, too, its start included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import attrs

TOKEN = "jetpay_sandbox_benchmark"
CONNECTIONS = 16
_PREAUTHORIZATION = json.dumps(
    {"amount": 100.50, "to_bank_account_id": "bank_789", "statement": "Cabin 12, July"}
).encode()
_PREAUTHORIZE = "/contact/contact_123/creditcards/cc_456/preauthorize"


@attrs.frozen
class Rate:
    """What was measured."""

    name: str
    calls: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds


@contextmanager
def served() -> Iterator[str]:
    """Run ``jetpay sandbox`` on the last core, and give its URL."""
    code = "import sys; from jetpay_async._cli import main; sys.exit(main())"
    arguments = ["sandbox", "--port", "0", "--token", TOKEN]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        try:
            yield next(word for line in process.stdout for word in line.split() if word.startswith("http://"))
        finally:
            process.terminate()
            process.communicate()


class Connection:
    """A connection that sends one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def call(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Send a request, and return the body of a 200 or 201."""
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await self._reader.readexactly(length)
        if b" 20" not in head[:13]:
            raise AssertionError(head + answer)
        return answer

    async def close(self) -> None:
        """Close it."""
        self._writer.close()
        await self._writer.wait_closed()


async def measure(url: str, calls: int) -> Sequence[Rate]:
    """Preauthorize, read the status and capture so many debits each, and time the three."""
    parts = urlsplit(url)
    connections = [
        Connection(*await asyncio.open_connection(parts.hostname, parts.port), parts.netloc) for _ in range(CONNECTIONS)
    ]
    ids: list[str] = []

    async def preauthorize(connection: Connection, _: str) -> None:
        ids.append(json.loads(await connection.call("POST", _PREAUTHORIZE, _PREAUTHORIZATION))["debit_id"])

    async def status(connection: Connection, debit_id: str) -> None:
        await connection.call("GET", f"/transaction/{debit_id}/status")

    async def capture(connection: Connection, debit_id: str) -> None:
        await connection.call("POST", f"/debit/{debit_id}/capture")

    rates = []
    try:
        for operation in (preauthorize, status, capture):
            work = iter(list(ids) or [""] * calls)
            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for connection in connections:
                    group.create_task(_repeat(operation, connection, work))
            rates.append(Rate(operation.__name__, calls, time.perf_counter() - began))
    finally:
        for connection in connections:
            await connection.close()
    return rates


async def _repeat(
    operation: Callable[[Connection, str], Awaitable[None]], connection: Connection, work: Iterator[str]
) -> None:
    for debit_id in work:
        await operation(connection, debit_id)


def main() -> None:
    """Print the rates of three calls, and of all of them together."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sandbox", description=__doc__)
    parser.add_argument("--calls", type=int, default=5000, help="of each kind, by default 5000")
    calls: int = parser.parse_args().calls
    with served() as url:
        rates = asyncio.run(measure(url, calls))
    together = Rate("together", sum(each.calls for each in rates), sum(each.seconds for each in rates))
    for rate in (*rates, together):
        print(f"{rate.name:12} {rate.per_second:7.0f} calls a second")
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has none

        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor = Rate("processor", together.calls, used.ru_utime + used.ru_stime)
        print(f"{processor.name:12} {processor.per_second:7.0f} calls a second of its time, start included")


if __name__ == "__main__":
    main()
