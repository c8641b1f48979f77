"""``jetpay sandbox``."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import textwrap
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jetpay_async._cli.io.console import write_message, write_output
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._core.endpoints import SANDBOX_TOKEN_PREFIX, is_loopback
from jetpay_async.errors import ConfigurationError
from jetpay_async.sandbox import (
    CARDS,
    ROUTES,
    DeliveryFaultKind,
    DeliveryPolicy,
    Fault,
    FaultKind,
    Sandbox,
    apply_scenario,
    serve,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jetpay_async.models import JSONValue

__all__ = ["sandbox"]

_logger = logging.getLogger("jetpay_async.sandbox")


def sandbox(*, list_faults: bool, **options: Any) -> int:
    """Run the sandbox, or list the faults."""
    if list_faults:
        write_output(_list_of_faults())
        return ExitStatus.DONE
    return _run(**options)


def _run(
    *,
    host: str,
    port: int,
    seed: int,
    latency: float,
    faults: Sequence[str],
    webhooks: Sequence[str],
    speedup: float,
    public_url: str | None,
    allowed_hosts: Sequence[str],
    callback_hosts: Sequence[str],
    token: str | None,
    state: str | None,
    scenario: str | None,
) -> int:
    """Run the sandbox until Ctrl-C or SIGTERM.

    Raises:
        ConfigurationError: An option or a file is not valid, or the address can't be bound.
        KeyboardInterrupt: It was stopped by Ctrl-C.
    """
    if not host.strip():  # would be every address of this machine
        raise ConfigurationError("argument --host: is empty; 0.0.0.0 listens on every address")
    try:
        service = Sandbox(
            host=host,
            port=port,
            seed=seed,
            latency=latency,
            delivery=DeliveryPolicy(speedup=speedup, callback_hosts=callback_hosts),
            public_url=public_url,
            allowed_hosts=allowed_hosts,
            api_token=token or SANDBOX_TOKEN_PREFIX + secrets.token_urlsafe(24),
        )
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    service.faults.add(*map(_fault, faults))
    if scenario is not None:
        _apply_scenario(service, Path(scenario))
    for url in webhooks:
        try:
            service.add_webhook(url)
        except ValueError as error:
            raise ConfigurationError(f"argument --webhook: {error}") from None
    state_file = None if state is None else Path(state)
    if state_file is not None and state_file.exists():
        _load_state(service, state_file, token)
    if not is_loopback(host) and host != "localhost":
        write_message(f"warning: listening on {host}; who reaches this port and has the token can use and control it")
    if _logger.isEnabledFor(logging.INFO):
        service.log_to(_log)
    _serve_until_stopped(service, state_file, host, port)
    return ExitStatus.DONE


def _serve_until_stopped(service: Sandbox, state_file: Path | None, host: str, port: int) -> None:
    try:
        asyncio.run(_serve(service, state_file))
    except OSError as error:
        if error.filename is not None:
            raise ConfigurationError(f"can't write {error.filename}: {error.strerror}") from None
        raise ConfigurationError(f"can't listen on {host}:{port}: {error.strerror}; try another --port") from None
    except UnicodeError:
        raise ConfigurationError(f"argument --host: {host[:60]!a} is not the name of a host") from None


async def _serve(service: Sandbox, state_file: Path | None) -> None:
    """Serve until SIGTERM, which is how containers are stopped."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)
    # It wakes the loop, whenever the signal comes; a handler of `signal` is not called while the loop waits, if the
    # signal came just before. Windows has no such handlers, and sends no SIGTERM.
    with suppress(NotImplementedError):
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    try:
        await serve(service, announce=_announce, state_file=state_file, stop=stop)
    finally:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


def _list_of_faults() -> str:
    return "\n".join(
        [
            "Faults of requests, for --fault and scenarios:",
            "",
            *map(_explained, FaultKind),
            "Settings, as NAME=VALUE after the kind:",
            "",
            f"  route        one of {', '.join(ROUTES[:7])},",
            f"               {', '.join(ROUTES[7:])}; every call if left out",
            "  identifier   only requests with this id in their path",
            "  probability  from 0 to 1; less than 1 means again and again, unless count says otherwise",
            "  count        how many times; once if left out",
            "  seconds, status, body (json, html, empty), retry_after, location, state: see above",
            "",
            "Faults of deliveries, for scenarios and the control API:",
            "",
            *map(_explained, DeliveryFaultKind),
            "Card numbers with a meaning:",
            "",
            *(f"  {number}  {card.meaning}" for number, card in CARDS.items()),
        ]
    )


def _explained(kind: FaultKind | DeliveryFaultKind) -> str:
    return f"  {kind.value}\n{textwrap.indent(textwrap.fill(kind.plain_meaning, 90), ' ' * 6)}\n"


def _announce(text: str) -> None:
    write_output(text)


def _log(entry: Mapping[str, JSONValue]) -> None:
    """Log a request or a delivery, with what it is about in fields."""
    fields = {name: float(value) if isinstance(value, Decimal) else value for name, value in entry.items()}
    del fields["time"]  # the record has its own
    if entry["event"] == "request":
        _logger.info("%s %s: %s", entry["method"], entry["path"], entry["status"] or "no reply", extra=fields)
    else:
        _logger.info("delivery to %s: %s", entry["url"], entry["status"] or entry["error"], extra=fields)


def _apply_scenario(service: Sandbox, path: Path) -> None:
    try:
        apply_scenario(service, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"can't read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _load_state(service: Sandbox, path: Path, token: str | None) -> None:
    try:
        service.load(path, api_token=token)
    except OSError as error:
        raise ConfigurationError(f"can't read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _fault(text: str) -> Fault:
    try:
        return Fault.from_text(text)
    except ValueError as error:
        kinds = ", ".join(FaultKind)
        raise ConfigurationError(f"argument --fault: {error}; the kinds are {kinds}") from None
