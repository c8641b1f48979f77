"""The public class: it starts and stops the parts, and gives access to their state."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from ssl import SSLContext
from types import TracebackType
from typing import Self

import attrs
from yarl import URL

from jetpay_async._core import contract, json
from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.endpoints import SANDBOX_TOKEN_PREFIX
from jetpay_async.models import JSONValue, TransactionState
from jetpay_async.sandbox import _documents, _snapshot
from jetpay_async.sandbox._access import ANY_HOST, CallbackHosts, HostNames
from jetpay_async.sandbox._api import Api, TokenScope
from jetpay_async.sandbox._cards import APPROVED, read_card_number
from jetpay_async.sandbox._control import Control
from jetpay_async.sandbox._deliveries import Deliveries, DeliveryAttempt, DeliveryPolicy
from jetpay_async.sandbox._faults import DeliveryFault, Fault, Faults
from jetpay_async.sandbox._journal import Journal
from jetpay_async.sandbox._keys import KeyRing
from jetpay_async.sandbox._limits import check_names, check_number
from jetpay_async.sandbox._movable_clock import MovableClock
from jetpay_async.sandbox._page import Page
from jetpay_async.sandbox._parts import Parts
from jetpay_async.sandbox._redaction import redacted_url
from jetpay_async.sandbox._server import Server
from jetpay_async.sandbox._service_openapi import ServiceDocs
from jetpay_async.sandbox._state import Account, SandboxEvent, Transaction
from jetpay_async.sandbox._timers import Timers
from jetpay_async.sandbox._webhooks import Webhooks

__all__ = ["Sandbox", "SandboxPayer"]

_AS_DOCUMENTED = DeliveryPolicy()


@attrs.frozen(kw_only=True)
class SandboxPayer:
    """A contact with a tokenized card: what a preauthorization needs."""

    contact_id: str
    credit_card_id: str


class Sandbox:
    """The Jetpay API in miniature, over a real socket, in the caller's event loop.

    Its state can be read and changed from the same process, before, while and after it runs; `stop` keeps it, and a
    later `start` takes the same port again.

    Args:
        host: The address to listen on.
        port: The port, 0 for a free one.
        seed: Of the identifiers and of the faults' probabilities: the same seed and the same requests in the same order
            give the same run.
        latency: Seconds that pass before each request is worked on.
        ssl_context: To serve https.
        clock: The time of events and of the deliveries' tokens, and every delay.
        refuses_second_capture: Whether the service answers another capture of a captured debit with a 409. False makes
            it take the money again, which shows whether it is the client that never captures twice.
        slow_bank_seconds: How long after a capture the state of `CardBehavior.later` follows.
        delivery: How webhooks are delivered; ``DeliveryPolicy(speedup=1000)`` for tests.
        public_url: Under which others reach it, for links: ``http://sandbox:8087`` in a network of containers. Left
            out, links have `url`.
        allowed_hosts: Names under which it may be called, besides ``localhost``, that of ``public_url`` and any
            address; ``*`` for all. Other requests are answered 403, so that no page can reach it by DNS rebinding.
        api_token: The token with every scope; it begins with ``jetpay_sandbox_``. Left out, one is made of the seed.

    Raises:
        ValueError: ``public_url`` is no http(s) URL or has more than a host, a port and a path, ``api_token`` begins
            otherwise, a network in ``delivery.callback_hosts`` is not valid, a number of seconds is negative or more
            than a year, or ``allowed_hosts`` is a single text.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 0,
        latency: float = 0.0,
        ssl_context: SSLContext | None = None,
        clock: Clock = SYSTEM_CLOCK,
        refuses_second_capture: bool = True,
        slow_bank_seconds: float = 1.0,
        delivery: DeliveryPolicy = _AS_DOCUMENTED,
        public_url: str | None = None,
        allowed_hosts: Collection[str] = (),
        api_token: str | None = None,
    ) -> None:
        check_number("latency", latency)
        check_number("slow_bank_seconds", slow_bank_seconds)
        check_names("allowed_hosts", allowed_hosts)
        public_host = None if public_url is None else _host_of(public_url)
        token = None if api_token is None else _checked_token(api_token)
        movable = MovableClock(clock)
        clock = movable.clock
        timers = Timers(clock)
        journal = Journal(SYSTEM_CLOCK)
        self._public_url = public_url and public_url.rstrip("/")
        self._account = Account(
            seed=seed,
            now=clock.time,
            defer=lambda action: timers.later(slow_bank_seconds, action),
            refuses_second_capture=refuses_second_capture,
        )
        self._keys = KeyRing()
        callback_hosts = [*delivery.callback_hosts, *([ANY_HOST] if delivery.public_callbacks else [])]
        self._webhooks = Webhooks(self._account.new_id, callback_hosts=CallbackHosts(callback_hosts))
        self._api = Api(self._account, webhooks=self._webhooks, keys=self._keys, own_url=lambda: self.public_url)
        self.faults: Faults[Fault] = Faults(f"{seed}/requests")
        """The faults of requests that are switched on."""
        self.delivery_faults: Faults[DeliveryFault] = Faults(f"{seed}/deliveries")
        """The faults of webhook deliveries that are switched on."""
        self._deliveries = Deliveries(
            webhooks=self._webhooks,
            events=self._account.events,
            keys=self._keys,
            clock=clock,
            policy=delivery,
            faults=self.delivery_faults,
        )
        self._deliveries.on_change = journal.touch
        self._parts = Parts(
            account=self._account,
            api=self._api,
            clock=movable,
            deliveries=self._deliveries,
            delivery_faults=self.delivery_faults,
            faults=self.faults,
            journal=journal,
            keys=self._keys,
            timers=timers,
            webhooks=self._webhooks,
        )
        self._server = Server(
            self._api,
            faults=self.faults,
            timers=timers,
            clock=clock,
            journal=journal,
            host_names=HostNames([*allowed_hosts, *([public_host] if public_host else [])]),
            additions=[
                ServiceDocs(self._keys, lambda: self.public_url).add_routes,
                Page(self, self._parts).add_routes,
                Control(self, self._parts).add_routes,
            ],
            latency=latency,
            host=host,
            port=port,
            ssl_context=ssl_context,
        )
        self.api_token: str = self._api.issue_token(TokenScope, token)
        """A token with every scope."""
        self.merchant_account_id: str = self.add_bank_account(title="Merchant account")
        """A bank account of the merchant, for the money to go to."""
        self._add_examples()
        self._baseline: dict[str, JSONValue] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, and deliver webhooks.

        Raises:
            RuntimeError: It runs already.
            OSError: The port is taken.
        """
        if self._server.running:
            raise RuntimeError("the sandbox runs already")
        self._keep_baseline()
        await self._server.start()
        self._deliveries.start()
        self._account.follow_banks()

    async def stop(self) -> None:
        """Stop listening, end slow and stalled requests, close every connection. Harmless if it does not run.

        States that slow banks still have to report, and pending events, follow after the next start.
        """
        await self._server.stop()
        await self._deliveries.stop()

    @property
    def url(self) -> str:
        """The base URL, for example ``http://127.0.0.1:40123``. With port 0 it is known once started."""
        return self._server.url

    @property
    def public_url(self) -> str:
        """The URL in links: that which was given, or `url`."""
        return self._public_url or self.url

    def snapshot(self) -> dict[str, JSONValue]:
        """Return the whole state, as JSON, for `restore`.

        It has the tokens and the private keys of this sandbox. Requests and deliveries in flight are not in it.
        """
        return {
            **_snapshot.take(self._parts),
            "api_token": self.api_token,
            "merchant_account_id": self.merchant_account_id,
        }

    def restore(self, snapshot: Mapping[str, JSONValue]) -> None:
        """Put a state that `snapshot` returned in the place of the present one, of this sandbox or of another.

        The tokens and keys of then are valid again. Work that a fault still had to do is dropped.

        Args:
            snapshot: What `snapshot` returned.

        Raises:
            ValueError: It is no such state. Nothing was changed.
        """
        api_token, merchant_account_id = snapshot.get("api_token"), snapshot.get("merchant_account_id")
        if not isinstance(api_token, str) or not isinstance(merchant_account_id, str):
            message = "this is not a snapshot of a sandbox: it has no api_token, or no merchant_account_id"
            raise ValueError(message)  # noqa: TRY004 - the input's fault
        self._keep_baseline()
        _snapshot.restore(self._parts, snapshot)
        self.api_token, self.merchant_account_id = api_token, merchant_account_id
        self._deliveries.pause(False)
        if self._server.running:
            self._account.follow_banks()

    def load(self, path: Path, *, api_token: str | None = None) -> None:
        """Restore the state that a file keeps; see the ``state_file`` of `serve`.

        Args:
            path: The file.
            api_token: The token to use instead of the one of the file, which stays valid.

        Raises:
            OSError: It can't be read.
            ValueError: It keeps no state of a sandbox, or the token does not begin with ``jetpay_sandbox_``.
        """
        self.restore(json.parse_object(path.read_bytes()))
        if api_token is not None:
            self.api_token = self._api.issue_token(TokenScope, _checked_token(api_token))

    def reset(self) -> None:
        """Go back to the state in which it was started: with the payers, faults and webhooks of then.

        Tokens and keys stay as they are. Debits, requests, events and deliveries are forgotten, so ids begin again.
        """
        self._keep_baseline()
        now = self.snapshot()
        self.restore({**(self._baseline or now), "tokens": now["tokens"], "keys": now["keys"]})

    def _keep_baseline(self) -> None:
        if self._baseline is None:
            self._baseline = self.snapshot()

    def log_to(self, write: Callable[[Mapping[str, JSONValue]], None]) -> None:
        """Describe each request and each attempt at a delivery when it has ended.

        Args:
            write: Called with an object of ``event`` (``request`` or ``delivery``), ``time`` and what it is about. No
                body, header or token is in it, and of a callback URL neither its query nor a password.
        """
        self._parts.journal.on_request = lambda record: write(_documents.request(record))
        self._deliveries.on_attempt = lambda attempt: write(
            {**_documents.attempt(attempt), "url": redacted_url(attempt.url)}
        )

    async def wait_for_change(self, version: int = -1) -> int:
        """Wait until something has happened.

        Args:
            version: What the last call returned; it returns at once if something has happened since.

        Returns:
            What to give to the next call.
        """
        return await self._parts.journal.wait(version)

    def issue_token(self, *scopes: TokenScope) -> str:
        """Make a token that may do this much; with no scope at all, nothing."""
        return self._api.issue_token(scopes)

    def revoke_token(self, token: str) -> None:
        """Revoke a token: requests with it are answered 401."""
        self._api.revoke_token(token)

    def _add_examples(self) -> None:
        """Create the ids of the guide's examples, so that these work unchanged."""
        payer = self._account.add_contact(
            email="payer@example.com", name="A Payer", tags=(), language="en", identifier="contact_123"
        )
        self._account.add_credit_card(payer.identifier, APPROVED, identifier="cc_456")
        self._account.add_bank_account(None, {"title": "Merchant account"}, identifier="bank_789")

    def add_contact(
        self, *, email: str = "payer@example.com", name: str = "A Payer", contact_id: str | None = None
    ) -> str:
        """Create a contact and return its id, which is drawn if none is given."""
        return self._account.add_contact(
            email=email, name=name, tags=(), language="en", identifier=contact_id
        ).identifier

    def add_credit_card(
        self, contact_id: str, *, card_number: str = APPROVED, credit_card_id: str | None = None
    ) -> str:
        """Tokenize a card and return its id, which is drawn if none is given; `CARDS` says what the number does.

        Raises:
            KeyError: There is no such contact.
            ValueError: ``card_number`` is none: 12 to 19 digits, with spaces or hyphens if you like.
        """
        number = read_card_number(card_number)
        _require(contact_id, self._account.contacts)
        return self._account.add_credit_card(contact_id, number, identifier=credit_card_id).identifier

    def add_payer(
        self,
        *,
        card_number: str = APPROVED,
        contact_id: str | None = None,
        credit_card_id: str | None = None,
        email: str = "payer@example.com",
        name: str = "A Payer",
    ) -> SandboxPayer:
        """Create a contact with a tokenized card; ids are drawn if none are given.

        Args:
            card_number: `CARDS` says what it does.
            contact_id: The contact's id.
            credit_card_id: The card's id.
            email: The contact's address.
            name: The contact's name.

        Raises:
            ValueError: ``card_number`` is none, see `add_credit_card`. Nothing was created.
        """
        read_card_number(card_number)
        contact_id = self.add_contact(email=email, name=name, contact_id=contact_id)
        return SandboxPayer(
            contact_id=contact_id,
            credit_card_id=self.add_credit_card(contact_id, card_number=card_number, credit_card_id=credit_card_id),
        )

    def add_bank_account(self, contact_id: str | None = None, *, title: str = "Bank account") -> str:
        """Create a bank account, a contact's or (without one) the merchant's, and return its id.

        Raises:
            KeyError: There is no such contact.
        """
        if contact_id is not None:
            _require(contact_id, self._account.contacts)
        return self._account.add_bank_account(contact_id, {"title": title}).identifier

    def debit(self, debit_id: str) -> Transaction:
        """Return a debit.

        Raises:
            KeyError: There is none with this id.
        """
        transaction = self._account.transactions[debit_id]
        if transaction.kind != "debit":
            raise KeyError(debit_id)
        return transaction

    @property
    def debits(self) -> tuple[Transaction, ...]:
        """Every debit, in the order of creation."""
        return tuple(each for each in self._account.transactions.values() if each.kind == "debit")

    @property
    def credits(self) -> tuple[Transaction, ...]:
        """Every credit, in the order of creation."""
        return tuple(each for each in self._account.transactions.values() if each.kind == "credit")

    @property
    def captured_twice(self) -> tuple[str, ...]:
        """The ids of the debits whose money was taken more than once. Must be empty, always."""
        return tuple(self._account.captured_twice)

    def set_state(
        self,
        identifier: str,
        state: TransactionState | str,
        *,
        fail_reason: str | None = None,
        fail_direction: str | None = None,
    ) -> Transaction:
        """Put a transaction into a state, as banks do on their own, and make the event.

        Args:
            identifier: Of a debit or a credit.
            state: Any string is one.
            fail_reason: What the status reports from now on.
            fail_direction: ``pull`` or ``push``, for the same.

        Raises:
            KeyError: There is no such transaction.
        """
        _require(identifier, self._account.transactions)
        return self._account.override(
            identifier, TransactionState(state), fail_reason=fail_reason, fail_direction=fail_direction
        )

    def requests(self, route: str | None = None, identifier: str | None = None) -> int:
        """Return how many requests have arrived whole.

        Args:
            route: One of `ROUTES`, for example ``"capture"``; None for all requests, also those to no route.
            identifier: Only those with this id in their path.

        Raises:
            ValueError: There is no such route.
        """
        return self._server.requests(route, identifier)

    @property
    def events(self) -> tuple[SandboxEvent, ...]:
        """Every event, in the order of their ids."""
        return tuple(self._account.events.since(1))

    def add_webhook(
        self,
        callback_url: str,
        *,
        callback_api_key: str | None = None,
        max_batch_size: int = 10,
        max_wait_seconds: int = 60,
    ) -> str:
        """Register a webhook for the events from now on, as ``POST /webhooks/`` does.

        Args:
            callback_url: Where to deliver.
            callback_api_key: A secret to send along.
            max_batch_size: Events per delivery, at most.
            max_wait_seconds: How long the first event of a batch waits for others; here it may be less than 60.

        Returns:
            The webhook's ``identifier``.

        Raises:
            ValueError: The URL is none, leads to another machine, or has a webhook already; or a number is out of
                range.
        """
        check_number("max_batch_size", max_batch_size, least=1, most=contract.MAX_BATCH_SIZE)
        check_number("max_wait_seconds", max_wait_seconds, most=contract.MAX_WAIT_SECONDS)
        error = self._webhooks.url_error(callback_url)
        if error is not None:
            raise ValueError(f"{callback_url}: {error}")
        webhook = self._webhooks.add(callback_url, next_event_id=self._account.events.last_id + 1)
        webhook.callback_api_key = callback_api_key
        webhook.max_batch_size = max_batch_size
        webhook.max_wait_seconds = max_wait_seconds
        self._webhooks.restart(webhook)
        return webhook.identifier

    @property
    def deliveries(self) -> tuple[DeliveryAttempt, ...]:
        """Every attempt at a delivery that has ended, in that order."""
        return tuple(self._deliveries.attempts)

    async def drain_deliveries(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - how long is the caller's to say
        """Deliver every event without waiting for batches to fill, until all are accepted or given up.

        Retries keep their backoff, which `DeliveryPolicy.speedup` shortens.

        Args:
            timeout: Seconds to allow for it.

        Raises:
            TimeoutError: Events are left.
            RuntimeError: The sandbox does not run.
        """
        await self._deliveries.drain(timeout)

    @property
    def jwks(self) -> Mapping[str, list[dict[str, str]]]:
        """The JWK Set at ``GET /.well-known/jwks.json``."""
        return self._keys.jwks

    def rotate_key(self, *, keep_old: bool = True) -> None:
        """Sign deliveries with a new key from now on.

        Args:
            keep_old: Whether the JWK Set still holds the older keys.
        """
        self._keys.rotate(keep_old=keep_old)


def _require(identifier: str, known: Mapping[str, object]) -> None:
    if identifier not in known:
        raise KeyError(identifier)


def _host_of(public_url: str) -> str:
    """Return the host of a URL for links."""
    try:
        url = URL(public_url)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError(f"public_url: {public_url} is not an http(s) URL")
    if url != url.with_user(None).with_query(None).with_fragment(None):
        raise ValueError("public_url: has a host, a port and a path, but no user, query or fragment")
    return url.host


def _checked_token(api_token: str) -> str:
    """Return a sandbox's token; refuse another, which may be worth something."""
    if not re.fullmatch(rf"{SANDBOX_TOKEN_PREFIX}[\x21-\x7e]+", api_token):
        del api_token
        raise ValueError(f"a sandbox's token begins with {SANDBOX_TOKEN_PREFIX}, so that it is never sent to Jetpay")
    return api_token
