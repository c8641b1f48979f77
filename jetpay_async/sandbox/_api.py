"""The REST calls: what each reads, does and replies. Pure; the network is in `_server`.

The paths, the requests and the replies are those of the vendor's guide. What it does not say is inferred:
the path of the bank account call, the names of the scopes, the wording of every ``detail``, and that cancelling a
preauthorization releases it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from jetpay_async._core import contract
from jetpay_async._core.endpoints import SANDBOX_TOKEN_PREFIX
from jetpay_async.sandbox import _pages, _responses
from jetpay_async.sandbox._responses import SandboxResponse
from jetpay_async.sandbox._state import RejectedError
from jetpay_async.sandbox._validation import Form

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jetpay_async.models import JSONValue
    from jetpay_async.sandbox._keys import KeyRing
    from jetpay_async.sandbox._state import Account, Transaction
    from jetpay_async.sandbox._webhooks import WebhookRegistration, Webhooks

__all__ = ["Api", "ReceivedRequest", "Route", "TokenScope"]

_BANK_ACCOUNT_FIELDS = tuple(name for name in contract.CREATE_BANK_ACCOUNT.required if name != "contact_id")


class TokenScope(StrEnum):
    """What a token may do [docs: tokens are scoped; the names are the sandbox's own]."""

    CONTACTS = "contacts"
    """Create contacts, ask for the hosted card form."""
    BANK_ACCOUNTS = "bank_accounts"
    """Create bank accounts."""
    CARD_PAYMENTS = "card_payments"
    """Preauthorize and charge saved cards."""
    CAPTURES = "captures"
    """Capture debits."""
    TRANSACTIONS = "transactions"
    """Read the status of transactions."""
    CANCELLATIONS = "cancellations"
    """Cancel transactions."""
    PAYMENTS = "payments"
    """Request debits and credits."""
    WEBHOOKS = "webhooks"
    """Register and change webhooks."""


@attrs.frozen
class ReceivedRequest:
    """A request whose route is known.

    Attributes:
        identifiers: The ids in its path.
        body: The bytes of its body.
        content_type: As received, without parameters.
        seconds_ago: How old the state is that a status reports.
    """

    identifiers: Sequence[str]
    body: bytes
    content_type: str
    seconds_ago: float = 0.0

    def form(self) -> Form:
        """Read the body."""
        return Form(self.body, self.content_type)


@attrs.frozen
class Route:
    """One call: its name in faults and counts, method and path, the scope that it requires, and its handler."""

    name: str
    method: str
    path: str
    scope: TokenScope | None
    respond: Callable[[ReceivedRequest], SandboxResponse]


class Api:
    """The REST calls on one account.

    Args:
        account: The account that they read and change.
        webhooks: The registrations.
        keys: The keys that the key set publishes.
        own_url: Returns the sandbox's own URL.
    """

    def __init__(
        self,
        account: Account,
        *,
        webhooks: Webhooks,
        keys: KeyRing,
        own_url: Callable[[], str],
    ) -> None:
        self._account = account
        self._webhooks = webhooks
        self._keys = keys
        self._own_url = own_url
        self.tokens: dict[str, frozenset[TokenScope]] = {}
        """What each token may do."""

    def issue_token(self, scopes: Iterable[TokenScope], token: str | None = None) -> str:
        """Make a token."""
        drawn = f"{SANDBOX_TOKEN_PREFIX}{self._account.new_id()}"
        token = token or drawn
        self.tokens[token] = frozenset(scopes)
        return token

    def revoke_token(self, token: str) -> None:
        """Revoke a token."""
        self.tokens.pop(token, None)

    def respond(self, route: Route, authorization: str, received: ReceivedRequest) -> SandboxResponse:
        """Do what a request asks for, and return the reply."""
        try:
            if route.scope is not None:
                self._authorize(route.scope, authorization)
            return route.respond(received)
        except RejectedError as rejected:
            challenge = {"WWW-Authenticate": "Bearer"} if rejected.status == 401 else None
            return _responses.json(rejected.status, {"detail": rejected.detail}, challenge)

    def routes(self) -> Iterable[Route]:
        """List the calls."""
        return (
            Route("preauthorize", *contract.PREAUTHORIZE.line, TokenScope.CARD_PAYMENTS, self._preauthorize),
            Route("charge", *contract.CHARGE.line, TokenScope.CARD_PAYMENTS, self._charge),
            Route("capture", *contract.CAPTURE.line, TokenScope.CAPTURES, self._capture),
            Route("status", *contract.STATUS.line, TokenScope.TRANSACTIONS, self._status),
            Route("cancel", *contract.CANCEL.line, TokenScope.CANCELLATIONS, self._cancel),
            Route("contact", *contract.CREATE_CONTACT.line, TokenScope.CONTACTS, self._add_contact),
            Route("card_url", *contract.CARD_FORM.line, TokenScope.CONTACTS, self._card_url),
            Route("bank_account", *contract.CREATE_BANK_ACCOUNT.line, TokenScope.BANK_ACCOUNTS, self._add_bank_account),
            Route("debit", *contract.CREATE_DEBIT.line, TokenScope.PAYMENTS, self._request_debit),
            Route("credit", *contract.CREATE_CREDIT.line, TokenScope.PAYMENTS, self._request_credit),
            Route("webhooks", *contract.LIST_WEBHOOKS.line, TokenScope.WEBHOOKS, self._list_webhooks),
            Route("webhooks", *contract.REGISTER_WEBHOOK.line, TokenScope.WEBHOOKS, self._add_webhook),
            Route("webhooks", *contract.READ_WEBHOOK.line, TokenScope.WEBHOOKS, self._show_webhook),
            Route("webhooks", *contract.CHANGE_WEBHOOK.line, TokenScope.WEBHOOKS, self._change_webhook),
            Route("webhooks", *contract.REMOVE_WEBHOOK.line, TokenScope.WEBHOOKS, self._remove_webhook),
            Route("jwks", *contract.KEY_SET.line, None, self._jwks),
            Route("card_form", "GET", "/creditcards/form/{identifier}", None, self._show_card_form),
            Route("card_form", "POST", "/creditcards/form/{identifier}", None, self._submit_card_form),
            Route("payment", "GET", "/payment/pay/{identifier}", None, self._show_payment),
            Route("payment", "POST", "/payment/pay/{identifier}", None, self._pay),
        )

    def _authorize(self, scope: TokenScope, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise RejectedError(401, "Not authenticated")
        scopes = self.tokens.get(token)
        if scopes is None:
            raise RejectedError(401, "Invalid authentication credentials")
        if scope not in scopes:
            raise RejectedError(403, "Not enough permissions")

    def _preauthorize(self, received: ReceivedRequest) -> SandboxResponse:
        return _card_payment(self._pay_by_card(received, self._account.preauthorize))

    def _charge(self, received: ReceivedRequest) -> SandboxResponse:
        return _card_payment(self._pay_by_card(received, self._account.charge))

    def _pay_by_card(self, received: ReceivedRequest, pay: Callable[..., Transaction]) -> Transaction:
        contact_id, credit_card_id = received.identifiers
        form = received.form()
        amount = form.amount("amount")
        to_bank_account_id = form.text("to_bank_account_id")
        statement = form.text("statement", longest=contract.STATEMENT_LIMIT)
        form.check()
        return pay(
            contact_id, credit_card_id, amount=amount, to_bank_account_id=to_bank_account_id, statement=statement
        )

    def _capture(self, received: ReceivedRequest) -> SandboxResponse:
        debit = self._account.capture(received.identifiers[0])
        return _responses.json(200, {"identifier": debit.identifier, "state": debit.state.value})

    def _status(self, received: ReceivedRequest) -> SandboxResponse:
        transaction = self._account.transaction(received.identifiers[0])
        if received.seconds_ago:
            return self._stale_status(received)
        document: dict[str, JSONValue] = {"state": transaction.state.value}
        if transaction.fail_reason is not None:
            document["fail_reason"] = transaction.fail_reason
        if transaction.fail_direction is not None:
            document["fail_direction"] = transaction.fail_direction
        return _responses.json(200, document)

    def _stale_status(self, received: ReceivedRequest) -> SandboxResponse:
        event = self._account.events.last_of(received.identifiers[0], received.seconds_ago)
        if event is None:
            raise RejectedError(404, "Transaction not found")
        names = {"state": "state", "failReason": "fail_reason", "failDirection": "fail_direction"}
        return _responses.json(200, {names[name]: value for name, value in event.data.items() if name in names})

    def _cancel(self, received: ReceivedRequest) -> SandboxResponse:
        self._account.cancel(received.identifiers[0])
        return _responses.json(200, {"ok": True})

    def _add_contact(self, received: ReceivedRequest) -> SandboxResponse:
        form = received.form()
        email, name = form.text("email"), form.text("name")
        tags, language = form.texts("tags"), form.optional_text("language")
        form.check()
        contact = self._account.add_contact(email=email, name=name, tags=tags, language=language or "en")
        return _responses.json(
            200,
            {
                "identifier": contact.identifier,
                "email": contact.email,
                "name": contact.name,
                "tags": contact.tags,
                "language": contact.language,
            },
        )

    def _card_url(self, received: ReceivedRequest) -> SandboxResponse:
        card_form = self._account.open_card_form(received.identifiers[0])
        url = f"{self._own_url()}/creditcards/form/{card_form.identifier}"
        return _responses.json(200, {contract.CARD_FORM_URL: url, contract.CARD_FORM_CARD: card_form.credit_card_id})

    def _add_bank_account(self, received: ReceivedRequest) -> SandboxResponse:
        form = received.form()
        contact_id = form.text("contact_id")
        details = {name: form.text(name) for name in _BANK_ACCOUNT_FIELDS}
        form.check()
        bank_account = self._account.add_bank_account(contact_id, details)
        return _responses.json(201, {"identifier": bank_account.identifier, "contact_id": contact_id, **details})

    def _request_debit(self, received: ReceivedRequest) -> SandboxResponse:
        form = received.form()
        amount = form.amount("amount")
        statement = form.text("statement", longest=contract.STATEMENT_LIMIT)
        note = form.optional_text("note")
        to_bank_account_id = form.text("to_bank_account")
        contact_id = form.optional_text("contact_id")
        email, name = form.optional_text("contact_email"), form.optional_text("contact_name")
        form.either(("contact_email", "contact_name"), ("contact_id",))
        form.check()
        self._account.bank_account(to_bank_account_id)
        if contact_id is None:
            # `either` has seen that both are there.
            contact = self._account.add_contact(email=email or "", name=name or "", tags=(), language="en")
            contact_id = contact.identifier
        return self._payment_link(
            self._account.request_debit(
                contact_id, amount=amount, to_bank_account_id=to_bank_account_id, statement=statement, note=note
            )
        )

    def _request_credit(self, received: ReceivedRequest) -> SandboxResponse:
        form = received.form()
        amount = form.amount("amount")
        statement = form.text("statement", longest=contract.STATEMENT_LIMIT)
        note = form.optional_text("note")
        from_bank_account_id = form.text("from_bank_account")
        to_bank_account_id = form.optional_text("to_bank_account")
        contact_id = form.text("contact_id")
        form.check()
        return self._payment_link(
            self._account.request_credit(
                contact_id,
                amount=amount,
                from_bank_account_id=from_bank_account_id,
                to_bank_account_id=to_bank_account_id,
                statement=statement,
                note=note,
            )
        )

    def _payment_link(self, transaction: Transaction) -> SandboxResponse:
        link = f"{self._own_url()}/payment/pay/{transaction.identifier}"
        return _responses.json(201, {"identifier": transaction.identifier, "link": link})

    def _list_webhooks(self, _: ReceivedRequest) -> SandboxResponse:
        return _responses.json(200, [webhook.document() for webhook in self._webhooks])

    def _add_webhook(self, received: ReceivedRequest) -> SandboxResponse:
        return self._write_webhook(received, None)

    def _show_webhook(self, received: ReceivedRequest) -> SandboxResponse:
        return _responses.json(200, self._webhook(received).document())

    def _change_webhook(self, received: ReceivedRequest) -> SandboxResponse:
        return self._write_webhook(received, self._webhook(received))

    def _remove_webhook(self, received: ReceivedRequest) -> SandboxResponse:
        self._webhooks.remove(self._webhook(received))
        return _responses.json(200, {"ok": True})

    def _webhook(self, received: ReceivedRequest) -> WebhookRegistration:
        webhook = self._webhooks.get(received.identifiers[0])
        if webhook is None:
            raise RejectedError(404, "Webhook not found")
        return webhook

    def _write_webhook(self, received: ReceivedRequest, webhook: WebhookRegistration | None) -> SandboxResponse:
        form = received.form()
        url = self._callback_url(form, webhook)
        api_key = form.optional_text("callback_api_key")
        size = form.optional_integer("max_batch_size", least=1, most=contract.MAX_BATCH_SIZE)
        wait = form.optional_integer(
            "max_wait_seconds", least=contract.MIN_WAIT_SECONDS, most=contract.MAX_WAIT_SECONDS
        )
        replay_id = form.optional_integer("replay_from_event_id", least=1)
        replay_moment = form.optional_moment("replay_from_timestamp")
        form.check()
        events = self._account.events
        if webhook is None:
            webhook = self._webhooks.add(url, next_event_id=events.last_id + 1)
        webhook.callback_url = url
        webhook.callback_api_key = None if form.clears("callback_api_key") else api_key or webhook.callback_api_key
        webhook.max_batch_size = size or webhook.max_batch_size
        webhook.max_wait_seconds = wait or webhook.max_wait_seconds
        if replay_moment is not None:
            webhook.next_event_id = events.first_since(replay_moment)
        if replay_id is not None:
            webhook.next_event_id = replay_id
        self._webhooks.restart(webhook)
        return _responses.json(200, webhook.document())

    def _callback_url(self, form: Form, webhook: WebhookRegistration | None) -> str:
        if webhook is not None and "callback_url" not in form:
            return webhook.callback_url
        url = form.url("callback_url")
        error = self._webhooks.url_error(url, of=webhook) if url else None
        if error is not None:
            form.add_error("callback_url", error)
        return url

    def _jwks(self, _: ReceivedRequest) -> SandboxResponse:
        return _responses.json(200, self._keys.jwks)

    def _show_card_form(self, received: ReceivedRequest) -> SandboxResponse:
        self._account.card_form(received.identifiers[0])
        return _pages.card_form()

    def _submit_card_form(self, received: ReceivedRequest) -> SandboxResponse:
        card_form = self._account.card_form(received.identifiers[0])
        number = _pages.card_number(received.body)
        if number is None:
            return _pages.card_form("That is not a card number.")
        saved = self._account.submit_card_form(card_form.identifier, number)
        return _pages.done("The card is saved." if saved else "The card could not be saved.")

    def _show_payment(self, received: ReceivedRequest) -> SandboxResponse:
        return _pages.payment(self._account.transaction(received.identifiers[0]))

    def _pay(self, received: ReceivedRequest) -> SandboxResponse:
        self._account.pay(received.identifiers[0])
        return _pages.done("Thank you.")


def _card_payment(debit: Transaction) -> SandboxResponse:
    return _responses.json(
        200,
        {
            "debit_id": debit.identifier,
            "amount": debit.amount,
            "statement": debit.statement,
            "to_bank_account_id": debit.to_bank_account_id,
            "contact_id": debit.contact_id,
            "from_credit_card_id": debit.from_credit_card_id,
            "transaction_state": debit.state.value,
        },
    )
