"""The registered webhooks and the progress of each. Pure; `_deliveries` delivers."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs
from yarl import URL

from jetpay_async._core import contract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jetpay_async.models import JSONValue
    from jetpay_async.sandbox._access import CallbackHosts

__all__ = ["NOT_ALLOWED", "WebhookRegistration", "WebhookState", "Webhooks"]

NOT_ALLOWED = (
    "The sandbox delivers to this machine only; start it with --allow-callbacks {host}, or in Python with "
    "DeliveryPolicy(callback_hosts=['{host}']), if it may deliver there"
)
"""Why a callback URL is rejected, and what allows its host."""


class WebhookState(StrEnum):
    """The state of a webhook [docs; the meanings are inferred from the names]."""

    ACTIVE = "active"
    """Every event is delivered."""
    SCHEDULED = "scheduled"
    """Events wait for the batch to fill or its time to come."""
    DISPATCHING = "dispatching"
    """A delivery is being sent."""
    BACKING_OFF = "backing_off"
    """The last attempt was not accepted; another one follows."""
    FAILED = "failed"
    """Given up. Changing the webhook starts it again."""


@attrs.define(kw_only=True, eq=False)
class WebhookRegistration:
    """One registration, and its progress.

    Attributes:
        id: The number that its deliveries carry.
        identifier: What its path holds.
        callback_url: Where to deliver.
        callback_api_key: A secret to send along, if any.
        max_batch_size: Events per delivery, at most.
        max_wait_seconds: How long the first event of a batch waits for others.
        next_event_id: Where the next batch starts.
        state: Its state.
        last_sent_event_id: The newest event that was accepted.
    """

    id: int
    identifier: str
    callback_url: str
    next_event_id: int
    callback_api_key: str | None = attrs.field(default=None, repr=False)
    max_batch_size: int = 10
    max_wait_seconds: int = contract.MIN_WAIT_SECONDS
    state: WebhookState = WebhookState.ACTIVE
    last_sent_event_id: int | None = None

    def document(self) -> JSONValue:
        """Write it as the API does."""
        return {
            "id": self.id,
            "identifier": self.identifier,
            "callback_url": self.callback_url,
            "callback_api_key": self.callback_api_key,
            "state": self.state.value,
            "last_sent_event_id": self.last_sent_event_id,
            "max_batch_size": self.max_batch_size,
            "max_wait_seconds": self.max_wait_seconds,
        }


class Webhooks:
    """Every registration, by identifier.

    Args:
        new_id: Makes identifiers.
        callback_hosts: Where callback URLs may lead.
    """

    def __init__(self, new_id: Callable[[], str], *, callback_hosts: CallbackHosts) -> None:
        self._new_id = new_id
        self._callback_hosts = callback_hosts
        self._registered: dict[str, WebhookRegistration] = {}
        self._count = 0
        self.on_change: Callable[[WebhookRegistration], None] = _no_listener
        """Called with each webhook that was added, changed or removed."""

    def __iter__(self) -> Iterator[WebhookRegistration]:
        return iter(self._registered.values())

    @property
    def count(self) -> int:
        """How many registrations were made so far, the removed ones too."""
        return self._count

    def get(self, identifier: str) -> WebhookRegistration | None:
        """Return a webhook, None if there is none with this identifier."""
        return self._registered.get(identifier)

    def url_error(self, callback_url: str, *, of: WebhookRegistration | None = None) -> str | None:
        """Return what is wrong with a URL for a new webhook, or for a given one."""
        if not _is_http(callback_url):
            return "That is no URL of HTTP"
        if not self._callback_hosts.allow(callback_url):
            return NOT_ALLOWED.format(host=URL(callback_url).host)
        if any(webhook.callback_url == callback_url for webhook in self if webhook is not of):
            return "A webhook for this URL exists already"
        return None

    def add(self, callback_url: str, *, next_event_id: int) -> WebhookRegistration:
        """Register a webhook. It delivers once it is `restart`-ed."""
        self._count += 1
        webhook = WebhookRegistration(
            id=self._count, identifier=self._new_id(), callback_url=callback_url, next_event_id=next_event_id
        )
        self._registered[webhook.identifier] = webhook
        return webhook

    def restart(self, webhook: WebhookRegistration) -> None:
        """Deliver from its ``next_event_id`` on, with its present settings."""
        webhook.state = WebhookState.ACTIVE
        self.on_change(webhook)

    def redeliver(self, event_id: int | None) -> int:
        """Deliver again from an event on, to every webhook; return how many there are.

        Args:
            event_id: Where to begin; None for the last event that each has accepted.
        """
        for webhook in self:
            webhook.next_event_id = max(1, event_id or webhook.last_sent_event_id or 1)
            self.restart(webhook)
        return len(self._registered)

    def replace_all(self, webhooks: Iterable[WebhookRegistration], *, count: int) -> None:
        """Put other registrations in the place of the present ones.

        Args:
            webhooks: The registrations.
            count: How many were made so far, the removed ones too.
        """
        former, self._registered = self._registered, {webhook.identifier: webhook for webhook in webhooks}
        self._count = count
        for webhook in (*former.values(), *self):
            self.on_change(webhook)

    def remove(self, webhook: WebhookRegistration) -> None:
        """Remove a webhook."""
        del self._registered[webhook.identifier]
        self.on_change(webhook)


def _is_http(url: str) -> bool:
    """Return whether this is a URL that can be posted to."""
    try:
        parsed = URL(url)
    except ValueError:
        return False
    return parsed.scheme in {"http", "https"} and bool(parsed.host)


def _no_listener(webhook: WebhookRegistration) -> None:
    """Do nothing: the deliveries have not been started yet."""
