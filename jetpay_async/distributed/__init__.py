"""Captures by many machines: `procrastinate` hands out chunks of a batch, the ledger says what is done.

::

    app = App(connector=PsycopgConnector(conninfo="postgresql://..."))
    captures = jetpay_async.distributed.procrastinate(app, make_client, ledger="postgresql://...", rate=300)

    await captures.submit("2026-11-22", debit_ids)      # anywhere: rows of the ledger, and a job for each chunk
    report = await captures.wait("2026-11-22")

On each machine that captures: ``procrastinate --app=shop.app worker --queues=jetpay --concurrency=4
--delete-jobs=successful --shutdown-graceful-timeout=20``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from procrastinate import App

    from jetpay_async.client import JetpayClient
    from jetpay_async.distributed.captures import DistributedCaptures

__all__ = ["procrastinate"]


def procrastinate(
    app: App,
    make_client: Callable[[], JetpayClient],
    *,
    ledger: str,
    concurrency: int = 64,
    rate: float | None = None,
    lease: float = 15.0,
    queue: str = "jetpay",
    stalled_after: float = 30.0,
) -> DistributedCaptures:
    """Capture on all machines that run a worker of this application.

    Call it where the tasks of ``app`` are defined, so that each worker knows them.

    Args:
        app: The application; its queue may be in the ledger's database or in another.
        make_client: Makes the client of a worker's process; called in its event loop.
        ledger: The ``postgresql://`` URL of the ledger.
        concurrency: Captures in flight in each process, at most.
        rate: Captures per second, of all machines together.
        lease: Seconds after which a process that says nothing counts as dead, for the ledger.
        queue: The queue of the jobs.
        stalled_after: Seconds without a heartbeat after which a worker counts as dead, for the queue: three heartbeats
            of the workers (``update_heartbeat_interval``, 10 s), or more.

    Raises:
        ConfigurationError: ``ledger`` is no such URL, or what is needed is not installed.
        InvalidArgumentError: A number is out of range.
    """
    try:
        from jetpay_async.distributed.captures import DistributedCaptures  # noqa: PLC0415 - the base install lacks it
    except ImportError as error:
        raise ConfigurationError(
            "captures by several machines need procrastinate: pip install 'jetpay-async[distributed]'"
        ) from error
    return DistributedCaptures(
        app,
        make_client,
        ledger=ledger,
        concurrency=concurrency,
        rate=rate,
        lease=lease,
        queue=queue,
        stalled_after=stalled_after,
    )
