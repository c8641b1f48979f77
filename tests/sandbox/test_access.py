"""Who may call the sandbox, and where its deliveries may go."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import aiohttp
import pytest

from jetpay_async.sandbox import DeliveryPolicy, Sandbox
from jetpay_async.sandbox._access import CallbackHosts, HostNames, is_loopback_peer

from .calling import Caller

if TYPE_CHECKING:
    from collections.abc import Callable

HOOK = "http://127.0.0.1:9/hook"


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        ("localhost:8087", True),
        ("LOCALHOST", True),
        ("127.0.0.1:8087", True),
        ("192.0.2.7:8087", True),
        ("[::1]:8087", True),
        ("", True),
        ("sandbox:8087", True),
        ("Sandbox", True),
        ("evil.test:8087", False),
        ("sandbox.evil.test", False),
        ("localhost.evil.test", False),
        ("127.0.0.1.evil.test", False),
        ("[::1].evil.test", False),
        ("localhost.", False),
    ],
)
def test_names(header: str, allowed: bool) -> None:
    """Addresses, localhost and the names that were given are the sandbox's; every other name may be rebound."""
    assert HostNames(["SANDBOX"]).allow(header) is allowed
    assert HostNames(["*"]).allow(header)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://localhost:9/hook", True),
        ("http://127.0.0.1/hook", True),
        ("http://receiver:8000/hook", True),
        ("http://172.16.5.5/hook", True),
        ("http://[fd00::5]/hook", True),
        ("http://172.32.0.1/hook", False),
        ("http://elsewhere.test/hook", False),
        ("http://receiver.test/hook", False),
    ],
)
def test_callback_hosts(url: str, allowed: bool) -> None:
    """Deliveries go to this machine, and to the hosts and networks that were named."""
    assert CallbackHosts(["Receiver", "172.16.0.0/12", "fd00::/8"]).allow(url) is allowed
    assert CallbackHosts(["*"]).allow(url)


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False), ("", False), (None, False)],
)
def test_peers(address: str | None, local: bool) -> None:
    """A connection is from this machine if its address is one of loopback's."""
    assert is_loopback_peer(address) is local


@pytest.mark.asyncio
async def test_a_foreign_name_is_answered_403() -> None:
    """A request under another name is answered 403 and does nothing, whatever its token; the health check answers."""
    async with Sandbox(allowed_hosts=["mine.test"], public_url="http://public.test:1/") as sandbox:
        async with aiohttp.ClientSession() as session:
            caller = Caller(sandbox, session)
            debit_id = await caller.reserve()

            rejected = await caller.call("POST", f"/debit/{debit_id}/capture", headers={"Host": "evil.test:80"})
            healthy = await caller.call("GET", "/healthz", headers={"Host": "evil.test:80"})
            captured = sandbox.debit(debit_id).captures
            for name in ("mine.test", "public.test:1"):
                assert (await caller.call("GET", "/webhooks/", headers={"Host": name})).status == 200

    assert (rejected.status, captured) == (403, 0)
    assert rejected.document["detail"].startswith("The sandbox is not called 'evil.test'; start it with --allow-host")
    assert (healthy.status, healthy.document) == (200, {"status": "ok"})


@pytest.mark.asyncio
async def test_the_bare_address_leads_to_the_page() -> None:
    """Who opens the sandbox's address in a browser sees its page, and not an error; it is no request to the API."""
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        async with session.get(f"{sandbox.url}/", allow_redirects=False) as led:
            location = led.headers["Location"]
        async with session.get(f"{sandbox.url}/") as page:
            text = await page.text()

        assert (led.status, location) == (302, "/_sandbox/")
        assert (page.status, page.url.path) == (200, "/_sandbox/")
        assert "<html" in text
        assert sandbox.requests() == 0


@pytest.mark.asyncio
async def test_links_have_the_public_url() -> None:
    """Links lead to the public URL; without one, a sandbox that listens everywhere names loopback in them."""
    async with (
        Sandbox(public_url="http://sandbox:8087/", host="0.0.0.0") as sandbox,
        aiohttp.ClientSession() as session,
    ):
        form = await Caller(sandbox, session).call("POST", "/contact/contact_123/creditcards/url")

        assert form.document["url"].startswith("http://sandbox:8087/creditcards/form/")
        assert sandbox.url.startswith("http://127.0.0.1:")
    async with Sandbox(host="0.0.0.0") as sandbox:
        assert sandbox.public_url == sandbox.url


@pytest.mark.parametrize("url", ["sandbox:8087", "ftp://sandbox", "http://", "http://["])
def test_a_public_url_is_a_url(url: str) -> None:
    """What is no http(s) URL with a host is refused."""
    with pytest.raises(ValueError, match=r"public_url: .* is not an http\(s\) URL"):
        Sandbox(public_url=url)


@pytest.mark.parametrize("url", ["http://me:secret@sandbox", "http://sandbox/?secret=1", "http://sandbox/#secret"])
def test_a_public_url_is_the_beginning_of_links(url: str) -> None:
    """What can't be continued by a path, or has a password, is refused, and the error does not show it."""
    with pytest.raises(ValueError, match="public_url: has a host, a port and a path") as caught:
        Sandbox(public_url=url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        pytest.param(lambda: Sandbox(latency=math.nan), "latency", id="latency"),
        pytest.param(lambda: Sandbox(slow_bank_seconds=-1), "slow_bank_seconds", id="slow bank"),
        pytest.param(lambda: Sandbox(allowed_hosts="sandbox"), "allowed_hosts", id="hosts"),
        pytest.param(lambda: DeliveryPolicy(speedup=0), "speedup", id="speedup"),
        pytest.param(lambda: DeliveryPolicy(timeout=math.inf), "timeout", id="timeout"),
        pytest.param(lambda: DeliveryPolicy(max_attempts=0), "max_attempts", id="attempts"),
        pytest.param(lambda: DeliveryPolicy(base_delay=-1), "base_delay", id="base delay"),
        pytest.param(lambda: DeliveryPolicy(max_delay=math.nan), "max_delay", id="most delay"),
        pytest.param(lambda: DeliveryPolicy(callback_hosts="receiver"), "callback_hosts", id="callback hosts"),
        pytest.param(lambda: Sandbox().add_webhook(HOOK, max_batch_size=0), "max_batch_size", id="batch"),
        pytest.param(lambda: Sandbox().add_webhook(HOOK, max_wait_seconds=-1), "max_wait_seconds", id="wait"),
        pytest.param(lambda: Sandbox().add_payer(card_number="4000"), "card_number", id="card"),
        pytest.param(lambda: Sandbox().add_credit_card("contact_123", card_number=""), "card_number", id="no card"),
    ],
)
def test_options_without_meaning(make: Callable[[], object], name: str) -> None:
    """A number that is out of range, a text for a list of names, and what is no card number are refused by name."""
    with pytest.raises(ValueError, match=f"^{name}: must be "):
        make()


@pytest.mark.parametrize("token", ["secret_live_token", "jetpay_sandbox_", "jetpay_sandbox_a b"])
def test_a_token_that_may_be_worth_something_is_refused(token: str) -> None:
    """A token that could be sent to Jetpay is refused, and the error does not show it."""
    with pytest.raises(ValueError, match="a sandbox's token begins with jetpay_sandbox_") as caught:
        Sandbox(api_token=token)

    assert "secret" not in str(caught.value)


@pytest.mark.asyncio
async def test_a_token_may_be_given() -> None:
    """A given token has every scope, and the identifiers stay those of the seed."""
    async with Sandbox(api_token="jetpay_sandbox_mine") as sandbox, aiohttp.ClientSession() as session:
        assert sandbox.api_token == "jetpay_sandbox_mine"
        assert (await Caller(sandbox, session).call("GET", "/webhooks/")).status == 200
        assert sandbox.merchant_account_id == Sandbox().merchant_account_id


def test_a_webhook_to_a_host_that_was_named() -> None:
    """A callback URL on a host that was named is accepted, another one is not; a network must be one."""
    sandbox = Sandbox(delivery=DeliveryPolicy(callback_hosts=["receiver"]))

    assert sandbox.add_webhook("http://receiver:8000/hook")
    with pytest.raises(ValueError, match=r"this machine only; .*--allow-callbacks other, .*callback_hosts=\['other'\]"):
        sandbox.add_webhook("http://other:8000/hook")
    with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 network"):
        Sandbox(delivery=DeliveryPolicy(callback_hosts=["10.0.0.0/99"]))
