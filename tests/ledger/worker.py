"""A worker of procrastinate to be killed: ``worker.py OPTIONS``, with the options of a `runner`.

It works off the chunks of all batches, says ``opened`` and ends by a signal, or when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from functools import partial

from procrastinate import App, PsycopgConnector

from jetpay_async.procrastinate import ProcrastinateCaptures, durable_captures
from tests.ledger.runner import Options, end_with_the_test, make_client, say

HEARTBEAT = 0.5
STALLED_AFTER = 2.0


def make_app(options: Options) -> tuple[App, ProcrastinateCaptures]:
    """Make what the workers and those who submit share."""
    app = App(connector=PsycopgConnector(conninfo=options.ledger))
    captures = durable_captures(
        app,
        partial(make_client, options),
        ledger=options.ledger,
        concurrency=options.concurrency,
        rate=options.rate,
        lease_seconds=options.lease_seconds,
        stalled_after=STALLED_AFTER,
    )
    return app, captures


async def work(options: Options) -> None:
    app, captures = make_app(options)
    async with app.open_async():
        say("opened")
        await app.run_worker_async(
            queues=["jetpay"],
            concurrency=2,
            fetch_job_polling_interval=0.5,
            update_heartbeat_interval=HEARTBEAT,
            stalled_worker_timeout=STALLED_AFTER,
            shutdown_graceful_timeout=options.timeout,
            delete_jobs="successful",
        )
        await captures.close()
    say("ended")


if __name__ == "__main__":
    threading.Thread(target=end_with_the_test, daemon=True).start()
    asyncio.run(work(Options(**json.loads(sys.argv[1]))))
