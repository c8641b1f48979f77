"""``jetpay webhooks send`` and ``jetpay webhooks listen``: for people who build a receiver."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import web
from aiohttp.test_utils import unused_port

from jetpay_async import JetpayClient, ServiceError
from jetpay_async._cli.commands import webhooks_listen, webhooks_send
from jetpay_async.sandbox import Sandbox
from jetpay_async.webhooks import (
    DebitCompleted,
    DebitFailed,
    DebitPaid,
    Event,
    EventRouter,
    MemoryInbox,
    RemoteKeySet,
    WebhookReceiver,
    WebhookVerifier,
    remote_keyset,
)
from tests.cli.conftest import CommandResult, reserve_many

Jetpay = Callable[..., CommandResult]


@attrs.define
class Receiver:
    """A receiver in a thread of its own, which takes its keys from where `send` serves them."""

    port: int
    """Of the keys."""
    url: str = ""
    handled: list[Event] = attrs.field(factory=list[Event])
    headers: list[dict[str, str]] = attrs.field(factory=list[dict[str, str]])
    answer: int | None = None
    """What is answered in place of what the receiver says."""

    async def serve(self, ready: threading.Event, closing: asyncio.Event) -> None:
        router = EventRouter()
        router.on(Event)(self._handle)
        async with RemoteKeySet(f"http://127.0.0.1:{self.port}", cooldown=0.001) as keys:
            receiver = WebhookReceiver(WebhookVerifier(keys, webhook_ids={1}), router, inbox=MemoryInbox())

            async def receive(request: web.Request) -> web.Response:
                self.headers.append(dict(request.headers))
                if self.answer is not None:
                    return web.Response(status=self.answer)
                response = await receiver.receive(await request.read(), request.headers.get("Authorization"))
                return web.Response(status=response.status)

            application = web.Application()
            application.router.add_post("/webhooks", receive)
            runner = web.AppRunner(application, access_log=None)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks"
            ready.set()
            await closing.wait()
            await receiver.aclose()
            await runner.cleanup()

    async def _handle(self, event: Event) -> None:
        self.handled.append(event)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """It asks for the keys when it starts, when nobody serves them, and again when a delivery comes."""
    monkeypatch.setattr(remote_keyset, "_RETRY_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(webhooks_send, "_KEYS_PAUSE_SECONDS", 0.02)
    made = Receiver(unused_port())
    loop, ready, closing = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    def run() -> None:
        loop.run_until_complete(made.serve(ready, closing))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(20)
    yield made
    loop.call_soon_threadsafe(closing.set)
    thread.join()


@pytest.fixture
def send(jetpay: Jetpay, receiver: Receiver) -> Jetpay:
    """Run `jetpay webhooks send` to the receiver."""

    def run(*arguments: str, url: str | None = None) -> CommandResult:
        return jetpay("webhooks", "send", url or receiver.url, f"--port={receiver.port}", *arguments)

    return run


def lines(result: CommandResult) -> list[Any]:
    return [json.loads(line) for line in result.out.splitlines()]


# --- send -------------------------------------------------------------------------------------------------------------


def test_a_receiver_handles_what_is_sent(send: Jetpay, receiver: Receiver) -> None:
    """Each delivery verifies, and has the events of one debit, in the order of the options."""
    run = send("--event=paid", "--event=completed", "--event=failed", "--count=2", "--first-id=7")

    assert (run.status, len(run.out.splitlines())) == (0, 2)
    assert run.out.startswith("events 7, 8, 9  200  ")
    assert f'RemoteKeySet("http://127.0.0.1:{receiver.port}")' in run.err
    assert [type(event) for event in receiver.handled] == [DebitPaid, DebitCompleted, DebitFailed] * 2
    assert [event.id for event in receiver.handled] == [7, 8, 9, 10, 11, 12]
    debits = [event.transaction_id for event in receiver.handled if isinstance(event, DebitPaid)]
    assert len(set(debits)) == 2
    failed = receiver.handled[2]
    assert isinstance(failed, DebitFailed)
    assert (failed.fail_reason, failed.fail_direction) == ("account_frozen", "pull")


def test_events_are_new_unless_their_ids_are_given(send: Jetpay, receiver: Receiver) -> None:
    """Two runs send different events; the same ids again are duplicates, which a receiver skips."""
    for arguments in ([], [], ["--first-id=5"], ["--first-id=5"]):
        assert send("--event=paid", "--transaction=debit_123", *arguments).status == 0

    assert len({event.id for event in receiver.handled}) == len(receiver.handled) == 3
    assert {event.transaction_id for event in receiver.handled if isinstance(event, DebitPaid)} == {"debit_123"}


@pytest.mark.parametrize("fault", ["stale", "body", "kid"])
def test_what_is_broken_is_rejected(send: Jetpay, receiver: Receiver, fault: str) -> None:
    """Status 0 if the receiver rejects what it must, 1 and a warning if it takes it."""
    rejected = send("--event=paid", f"--break={fault}", "--json")
    receiver.answer = 200
    accepted = send("--event=paid", f"--break={fault}", "--json")

    assert (rejected.status, accepted.status) == (0, 1)
    assert receiver.handled == []
    assert (lines(rejected)[0]["accepted"], lines(rejected)[0]["break"]) == (False, fault)
    assert lines(rejected)[0]["status"] >= 400
    assert "accepted a delivery that it must reject" in accepted.err
    assert "accepted a delivery" not in rejected.err


def test_a_good_delivery_that_is_rejected(send: Jetpay, receiver: Receiver) -> None:
    """Status 1: the receiver must take it; so it is if only one of several was rejected."""
    other_webhook = send("--event=paid", "--webhook-id=2")
    before = len(receiver.headers)
    receiver.answer = 302
    redirected = send("--event=paid", "--count=2")
    after = len(receiver.headers)
    receiver.answer = 401
    unknown = send("--event=paid")

    assert (other_webhook.status, redirected.status, unknown.status) == (1, 1, 1)
    assert after - before == 2  # a redirect is not followed
    assert "use --key FILE" in unknown.err
    assert "use --key FILE" not in redirected.err


@pytest.mark.parametrize(("fault", "status"), [(None, 3), ("stale", 3), ("kid", 0)])
def test_a_receiver_without_keys(
    send: Jetpay, receiver: Receiver, fault: str | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 503 says nothing of the delivery, so it is sent again for a while; of an unknown key it is a rejection."""
    monkeypatch.setattr(webhooks_send, "_KEYS_TIMEOUT_SECONDS", 0.1)
    receiver.answer = 503

    run = send("--event=paid", *([] if fault is None else [f"--break={fault}"]))

    assert run.status == status
    assert (len(receiver.headers) > 1) is (fault != "kid")


def test_no_response(send: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 3 where nobody listens, or nobody answers in time."""
    refusing = send("--event=paid", "--json", url=f"http://127.0.0.1:{unused_port()}/")
    monkeypatch.setattr(webhooks_send, "_RESPONSE_TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = send("--event=paid", url=f"http://127.0.0.1:{silent.getsockname()[1]}/")

    assert (refusing.status, hanging.status) == (3, 3)
    assert (lines(refusing)[0]["status"], lines(refusing)[0]["accepted"]) == (None, False)
    assert "Cannot connect" in lines(refusing)[0]["error"]
    assert "no response within 15 s" in hanging.out


def test_a_key_that_is_kept(send: Jetpay, receiver: Receiver, tmp_path: Path) -> None:
    """A file holds the key over several runs; it is readable by its owner alone, and shown nowhere."""
    path = tmp_path / "key.pem"
    first, second = send("--event=paid", f"--key={path}"), send("--event=paid", f"--key={path}")

    assert (first.status, second.status) == (0, 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kids = {json.loads(decoded(each["Authorization"]))["kid"] for each in receiver.headers}
    assert (len(kids), len(receiver.handled)) == (1, 2)
    assert "PRIVATE KEY" not in first.out + first.err


def decoded(authorization: str) -> bytes:
    import base64

    header = authorization.removeprefix("Bearer ").split(".")[0]
    return base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))


@pytest.mark.parametrize("content", ["nonsense", None])
def test_a_key_that_is_none(send: Jetpay, receiver: Receiver, tmp_path: Path, content: str | None) -> None:
    """A file that holds no key, or can't be made, is an error that does not repeat what is in it."""
    path = tmp_path / "key.pem" if content else tmp_path / "none" / "key.pem"
    if content:
        path.write_text(content)

    run = send("--event=paid", f"--key={path}")

    assert run.status == 2
    assert "argument --key" in run.err
    assert "nonsense" not in run.err
    assert receiver.headers == []


def test_a_port_that_is_taken(jetpay: Jetpay) -> None:
    """It says so, and which option helps."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = jetpay("webhooks", "send", "http://127.0.0.1:9/", "--event=paid", f"--port={taken.getsockname()[1]}")

    assert run.status == 2
    assert "try another --port" in run.err


def test_a_url_that_is_none(jetpay: Jetpay) -> None:
    """Nothing is sent anywhere."""
    for command in (["send", "nowhere", "--event=paid"], ["listen", "--forward-to=nowhere"]):
        assert jetpay("webhooks", *command).status == 2


# --- listen -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def listen(jetpay: Jetpay, sandbox: Sandbox) -> Callable[..., CommandResult]:
    """Run `jetpay webhooks listen` while a debit is reserved at the sandbox, as soon as it has registered."""

    def run(*arguments: str, debits: int = 1) -> CommandResult:
        def reserve() -> None:
            while not sandbox.requests("webhooks") or not list(sandbox._webhooks):
                stopped.wait(0.005)
            reserve_many(sandbox, debits)

        stopped = threading.Event()
        thread = threading.Thread(target=reserve)
        thread.start()
        result = jetpay("webhooks", "listen", *arguments)
        thread.join()
        return result

    return run


def test_deliveries_are_printed(listen: Jetpay, sandbox: Sandbox) -> None:
    """Each event is a line; the webhook is removed at the end."""
    run = listen("--count=2", debits=2)

    assert (run.status, list(sandbox._webhooks)) == (0, [])
    for number, (line, debit) in enumerate(zip(run.out.splitlines(), sandbox.debits, strict=True), 1):
        shown = f"event {number}  transactions.debits.created  preauthorized  {debit.identifier}  204  "
        assert line.startswith(shown)
    assert "webhook_ids={1}" in run.err


def test_deliveries_are_forwarded(listen: Jetpay, sandbox: Sandbox, receiver: Receiver) -> None:
    """The receiver gets them as they were sent, with their token, and the sandbox gets its answer."""
    receiver.port = int(sandbox.url.rpartition(":")[2])
    receiver.answer = 202

    run = listen(f"--forward-to={receiver.url}", "--count=1", "--json")

    (delivery,) = lines(run)
    assert (run.status, delivery["status"], delivery["error"]) == (0, 202, None)
    assert [(event["id"], event["state"]) for event in delivery["events"]] == [(1, "preauthorized")]
    (headers,) = receiver.headers
    assert headers["Authorization"].startswith("Bearer ")
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] not in run.out + run.err
    assert [attempt.status for attempt in sandbox.deliveries] == [202]


def test_a_receiver_that_is_not_there(listen: Jetpay, sandbox: Sandbox) -> None:
    """The sandbox is answered 502, so it delivers again."""
    run = listen(f"--forward-to=http://127.0.0.1:{unused_port()}/", "--count=1", "--json")

    (delivery,) = lines(run)
    assert (delivery["status"], "Cannot connect" in delivery["error"]) == (502, True)
    assert [attempt.status for attempt in sandbox.deliveries] == [502]


def test_ctrl_c_ends_it(jetpay: Jetpay, sandbox: Sandbox, interrupt_when: Callable[[Callable[[], bool]], None]) -> None:
    """Ctrl-C removes the webhook, and is no error."""
    interrupt_when(lambda: bool(list(sandbox._webhooks)))

    run = jetpay("webhooks", "listen")

    assert (run.status, list(sandbox._webhooks)) == (0, [])


def test_a_webhook_that_can_not_be_removed(listen: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that the webhook is left."""

    async def fail(_: JetpayClient, identifier: str) -> None:
        raise ServiceError(f"no answer about {identifier}")

    monkeypatch.setattr(JetpayClient, "remove_webhook", fail)

    run = listen("--count=1")

    assert run.status == 0
    assert "the webhook is left registered: no answer" in run.err


def test_only_a_sandbox_can_deliver_here(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real service, or a host of the network, nothing is registered."""
    monkeypatch.setenv("JETPAY_API_TOKEN", "token")
    for url in ("", "https://sandbox.example.com"):
        monkeypatch.setenv("JETPAY_BASE_URL", url)
        run = jetpay("webhooks", "listen")

        assert run.status == 2
        assert "only a sandbox on this machine" in run.err


def test_what_is_no_delivery(capsys: pytest.CaptureFixture[str]) -> None:
    """Something else that is posted there is a warning, not an end."""
    listener = webhooks_listen._Listener(None, None, as_json=False)

    listener._report(b"{}", 204, "", 0.0)

    assert "that is no delivery" in capsys.readouterr().err


def test_events_of_another_kind(capsys: pytest.CaptureFixture[str]) -> None:
    """An event that is about no transaction has its id and its type."""
    event = {"id": 3, "createdAt": "2026-01-22T10:15:30Z", "type": "kyc.status.changed", "data": {"a": 1}}
    body = json.dumps({"webhookId": 1, "events": [event]}).encode()

    webhooks_listen._Listener(None, None, as_json=False)._report(body, 204, "", 0.5)

    assert capsys.readouterr().out == "event 3  kyc.status.changed  204  0.500 s\n"
