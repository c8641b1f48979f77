"""The public class: it starts and stops the parts, and gives access to their state."""

from __future__ import annotations

from collections.abc import Mapping
from ssl import SSLContext
from types import TracebackType
from typing import Self

import attrs

from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async.models import TransactionState
from jetpay_async.sandbox._api import Api, TokenScope
from jetpay_async.sandbox._cards import APPROVED
from jetpay_async.sandbox._deliveries import Deliveries, DeliveryAttempt, DeliveryPolicy
from jetpay_async.sandbox._faults import DeliveryFault, Fault, Faults
from jetpay_async.sandbox._keys import KeyRing
from jetpay_async.sandbox._server import Server
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
    ) -> None:
        timers = Timers(clock)
        self._account = Account(
            seed=seed,
            now=clock.time,
            defer=lambda action: timers.later(slow_bank_seconds, action),
            refuses_second_capture=refuses_second_capture,
        )
        self._keys = KeyRing()
        self._webhooks = Webhooks(self._account.new_id, public_callbacks=delivery.public_callbacks)
        self._api = Api(self._account, webhooks=self._webhooks, keys=self._keys, own_url=lambda: self.url)
        self.faults: Faults[Fault] = Faults(f"{seed}/requests")
        """The faults of requests that are switched on."""
        self.delivery_faults: Faults[DeliveryFault] = Faults(f"{seed}/deliveries")
        """The faults of webhook deliveries that are switched on."""
        self._server = Server(
            self._api,
            faults=self.faults,
            timers=timers,
            clock=clock,
            latency=latency,
            host=host,
            port=port,
            ssl_context=ssl_context,
        )
        self._deliveries = Deliveries(
            webhooks=self._webhooks,
            events=self._account.events,
            keys=self._keys,
            clock=clock,
            policy=delivery,
            faults=self.delivery_faults,
        )
        self.api_token: str = self.issue_token(*TokenScope)
        """A token with every scope."""
        self.merchant_account_id: str = self.add_bank_account(title="Merchant account")
        """A bank account of the merchant, for the money to go to."""
        self._add_examples()

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
        await self._server.start()
        self._deliveries.start()

    async def stop(self) -> None:
        """Stop listening, end slow and stalled requests, close every connection. Harmless if it does not run.

        States of slow banks that are still to follow are dropped. Pending events are delivered after the next start.
        """
        await self._server.stop()
        await self._deliveries.stop()

    @property
    def url(self) -> str:
        """The base URL, for example ``http://127.0.0.1:40123``. With port 0 it is known once started."""
        return self._server.url

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

    def add_contact(self, *, email: str = "payer@example.com", name: str = "A Payer") -> str:
        """Create a contact and return its id."""
        return self._account.add_contact(email=email, name=name, tags=(), language="en").identifier

    def add_credit_card(self, contact_id: str, *, card_number: str = APPROVED) -> str:
        """Tokenize a card and return its id; `CARDS` says what the number does.

        Raises:
            KeyError: There is no such contact.
        """
        _require(contact_id, self._account.contacts)
        return self._account.add_credit_card(contact_id, card_number).identifier

    def add_payer(self, *, card_number: str = APPROVED) -> SandboxPayer:
        """Create a contact with a tokenized card; `CARDS` says what the number does."""
        contact_id = self.add_contact()
        return SandboxPayer(
            contact_id=contact_id, credit_card_id=self.add_credit_card(contact_id, card_number=card_number)
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
            ValueError: The URL is none, leads to another machine, or has a webhook already.
        """
        error = self._webhooks.url_error(callback_url)
        if error is not None:
            raise ValueError(f"{callback_url}: {error[0]}")
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
