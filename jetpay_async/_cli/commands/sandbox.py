"""``jetpay sandbox``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jetpay_async._cli.io.console import write_output
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async.errors import ConfigurationError
from jetpay_async.sandbox import DeliveryPolicy, Fault, FaultKind, Sandbox, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["sandbox"]


def sandbox(
    *,
    host: str,
    port: int,
    seed: int,
    latency: float,
    faults: Sequence[str],
    webhooks: Sequence[str],
    speedup: float,
) -> int:
    """Run the sandbox until Ctrl-C.

    Raises:
        ConfigurationError: A fault or a webhook is not valid, or the address can't be bound.
        KeyboardInterrupt: It was stopped.
    """
    service = Sandbox(host=host, port=port, seed=seed, latency=latency, delivery=DeliveryPolicy(speedup=speedup))
    service.faults.add(*map(_fault, faults))
    for url in webhooks:
        try:
            service.add_webhook(url)
        except ValueError as error:
            raise ConfigurationError(f"argument --webhook: {error}") from None
    try:
        asyncio.run(serve(service, announce=_announce))
    except OSError as error:
        raise ConfigurationError(f"can't listen on {host}:{port}: {error.strerror}; try another --port") from None
    return ExitStatus.DONE  # pragma: no cover - it serves until it is interrupted


def _announce(text: str) -> None:
    write_output(text)


def _fault(text: str) -> Fault:
    try:
        return Fault.from_text(text)
    except ValueError as error:
        kinds = ", ".join(FaultKind)
        raise ConfigurationError(f"argument --fault: {error}; the kinds are {kinds}") from None
