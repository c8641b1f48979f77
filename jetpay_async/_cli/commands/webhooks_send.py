"""``jetpay webhooks send``: signed deliveries for a receiver that is being built.

They are signed with a key of their own, whose public half is served on this machine while the command runs: a receiver
takes it with ``RemoteKeySet("http://127.0.0.1:8798")``. Nobody else's receiver accepts them.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import attrs
from aiohttp import web

from jetpay_async._cli.io.console import to_json, write_message, write_result
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._core import contract, json
from jetpay_async._core.webhook_operations import read_callback_url
from jetpay_async._text import printable
from jetpay_async.errors import ConfigurationError
from jetpay_async.sandbox._keys import KeyRing
from jetpay_async.webhooks import sign

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetpay_async.models import JSONValue
    from jetpay_async.sandbox._keys import SigningKey

__all__ = ["TriggerDelivery", "send"]

_HOST = "127.0.0.1"
_RESPONSE_TIMEOUT_SECONDS = 15.0  # what Jetpay waits [docs]
_STALE_SECONDS = 600.0
_KEYS_TIMEOUT_SECONDS = 30.0
_KEYS_PAUSE_SECONDS = 1.0
_UNKNOWN_KEY = 401
_NO_KEYS = 503


def send(
    *,
    url: str,
    events: Sequence[str],
    count: int,
    fault: str | None,
    transaction_id: str | None,
    webhook_id: int,
    first_event_id: int | None,
    key_file: str | None,
    port: int,
    as_json: bool,
) -> int:
    """Send deliveries, and report how the receiver answers each.

    Raises:
        ConfigurationError: The file of the key can't be used, or the keys can't be served on this port.
        InvalidArgumentError: The URL is none.
    """
    keys = _read_keys(key_file)
    deliveries = _make_deliveries(
        events,
        count=count,
        transaction_id=transaction_id,
        webhook_id=webhook_id,
        # Later runs send new events, not those that an inbox has seen.
        first_event_id=int(time.time() * 1000) if first_event_id is None else first_event_id,
    )
    statuses = asyncio.run(_send_each(read_callback_url(url), deliveries, keys, fault, port, as_json=as_json))
    return next((status for status in statuses if status is not ExitStatus.DONE), ExitStatus.DONE)


@attrs.frozen
class TriggerDelivery:
    """One delivery."""

    event_ids: tuple[int, ...]
    body: bytes


def _make_deliveries(
    events: Sequence[str], *, count: int, transaction_id: str | None, webhook_id: int, first_event_id: int
) -> list[TriggerDelivery]:
    """Make so many deliveries; each has the events of one debit."""
    deliveries: list[TriggerDelivery] = []
    for number in range(count):
        debit_id = transaction_id or str(uuid.uuid4())
        ids = tuple(range(first_event_id + number * len(events), first_event_id + (number + 1) * len(events)))
        document: JSONValue = {
            "webhookId": webhook_id,
            "events": [_make_event(*each, debit_id) for each in zip(ids, events, strict=True)],
        }
        deliveries.append(TriggerDelivery(ids, json.dump(document)))
    return deliveries


def _make_event(event_id: int, state: str, debit_id: str) -> JSONValue:
    data: dict[str, JSONValue] = {"state": state, "transactionId": debit_id}
    if state == "failed":
        data |= {"failReason": "account_frozen", "failDirection": "pull"}
    # The same event is the same when it is sent again, so all of it follows from its id.
    created = datetime.fromtimestamp(event_id / 1000, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"id": event_id, "createdAt": created, "type": contract.DEBIT_EVENT, "data": data}


def _sign(delivery: TriggerDelivery, key: SigningKey, fault: str | None) -> tuple[bytes, str]:
    """Return the body to send and the ``Authorization`` header; the fault is the only thing that is wrong with them."""
    now = time.time() - (_STALE_SECONDS if fault == "stale" else 0)
    kid = str(uuid.uuid4()) if fault == "kid" else key.kid
    authorization = sign(delivery.body, key.private_key, kid=kid, now=now)
    # The same JSON, in other bytes.
    return (delivery.body + b"\n" if fault == "body" else delivery.body), authorization


async def _send_each(
    url: str, deliveries: Sequence[TriggerDelivery], keys: KeyRing, fault: str | None, port: int, *, as_json: bool
) -> list[ExitStatus]:
    application = web.Application()

    async def show_keys(_: web.Request) -> web.Response:
        return web.Response(body=json.dump(dict(keys.jwks)), content_type="application/json")

    application.router.add_get(contract.KEY_SET.path, show_keys)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, _HOST, port).start()
        except OSError as error:
            raise ConfigurationError(
                f"can't serve the keys on {_HOST}:{port}: {error.strerror}; try another --port"
            ) from None
        write_message(f'keys for the receiver: RemoteKeySet("http://{_HOST}:{runner.addresses[0][1]}")')
        timeout = aiohttp.ClientTimeout(total=_RESPONSE_TIMEOUT_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            return [
                await _send_one(session, url, delivery, keys.current, fault, as_json=as_json) for delivery in deliveries
            ]
    finally:
        await runner.cleanup()


async def _send_one(
    session: aiohttp.ClientSession,
    url: str,
    delivery: TriggerDelivery,
    key: SigningKey,
    fault: str | None,
    *,
    as_json: bool,
) -> ExitStatus:
    """Send one delivery, again while the receiver has no keys: it may have asked for them before they were there."""
    response = await _post(session, url, delivery, key, fault)
    give_up = time.monotonic() + _KEYS_TIMEOUT_SECONDS
    while response.status == _NO_KEYS and fault != "kid" and time.monotonic() < give_up:
        await asyncio.sleep(_KEYS_PAUSE_SECONDS)
        response = await _post(session, url, delivery, key, fault)
    status, accepted = response.status, response.accepted
    if as_json:
        fields = {"events": delivery.event_ids, "break": fault, **attrs.asdict(response)}
        write_result(to_json({"accepted": accepted, **fields}))
    else:
        ids = ", ".join(map(str, delivery.event_ids))
        write_result(f"events {ids}  {status or response.error}  {response.seconds:.3f} s")
    if status is None or (status == _NO_KEYS and fault != "kid"):
        return ExitStatus.RETRYABLE
    if fault is not None and accepted:
        write_message(f"the receiver accepted a delivery that it must reject ({fault})", level="warning")
    if fault is None and status == _UNKNOWN_KEY:
        write_message("a receiver that has an earlier key asks for another one every 30 s at most: use --key FILE")
    return ExitStatus.DONE if accepted is (fault is None) else ExitStatus.REJECTED


@attrs.frozen(kw_only=True)
class TriggerResponse:
    """How a receiver answers, or why it did not."""

    status: int | None = None
    error: str | None = None
    seconds: float

    @property
    def accepted(self) -> bool:
        """Whether the status is 2xx."""
        return self.status is not None and 200 <= self.status < 300


async def _post(
    session: aiohttp.ClientSession, url: str, delivery: TriggerDelivery, key: SigningKey, fault: str | None
) -> TriggerResponse:
    body, authorization = _sign(delivery, key, fault)
    headers = {"Content-Type": "application/json", "Authorization": authorization}
    began = time.monotonic()
    status, failure = None, None
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as error:
        failure = printable(str(error) or "no response within 15 s")
    return TriggerResponse(status=status, error=failure, seconds=round(time.monotonic() - began, 3))


def _read_keys(path: str | None) -> KeyRing:
    """Take the key of a file, which is made if there is none, or one of this run alone."""
    keys = KeyRing()
    if path is None:
        return keys
    file = Path(path)
    try:
        if file.exists():
            keys.load([file.read_text(encoding="utf-8")])
            return keys
        keys.rotate(keep_old=False)
        (pem,) = keys.dump()
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as made:  # noqa: PTH123 - with this mode from the first moment
            made.write(pem)
    except OSError as error:
        raise ConfigurationError(f"argument --key: {path}: {error.strerror}") from None
    except (ValueError, TypeError):  # its text may hold a part of the key
        raise ConfigurationError(f"argument --key: {path}: is no private RSA key in PEM") from None
    return keys
