"""Faults on request: which request or delivery one applies to, and what it makes of a reply. Pure.

A fault of a request is injected at one of two points. *Before the work* the service has done nothing and never will for
this request (`FaultKind.SLOW_BEFORE`, `FaultKind.PROCESS_LATE` and `FaultKind.RETRANSMIT` excepted, which do the work
late); *after the work* all is done and only the reply is damaged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from random import Random
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

import attrs

from jetpay_async._core import json
from jetpay_async.models import JSONValue
from jetpay_async.sandbox import _responses
from jetpay_async.sandbox._limits import MOST_SECONDS, within
from jetpay_async.sandbox._responses import Broken, SandboxResponse

__all__ = [
    "ROUTES",
    "ActiveFault",
    "DeliveryFault",
    "DeliveryFaultKind",
    "Fault",
    "FaultKind",
    "Faults",
    "damage",
]

ROUTES = (
    "preauthorize",
    "charge",
    "capture",
    "status",
    "cancel",
    "contact",
    "card_url",
    "bank_account",
    "debit",
    "credit",
    "webhooks",
    "jwks",
    "card_form",
    "payment",
)
"""The names of the calls, for faults and counts."""


_SETTING = re.compile(r"`\w+\.(\w+)`")
_PLAIN = re.compile(r"(`+)(.*?)\1")


class _KindWithMeaning(StrEnum):
    """A kind of fault, and what it does, in words that the command line prints, too."""

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        kind = str.__new__(cls, value)
        kind._value_ = value
        kind.meaning = meaning
        return kind

    @property
    def plain_meaning(self) -> str:
        """Its meaning without marks: a setting's name is in angle brackets."""
        return _PLAIN.sub(r"\2", _SETTING.sub(r"<\1>", self.meaning))


class FaultKind(_KindWithMeaning):
    """What goes wrong, and on which side of the work; ``meaning`` says it in words."""

    LOSE_REPLY_BEFORE = "lose_reply_before", "The connection is closed without an answer; nothing was done."
    LOSE_REPLY_AFTER = "lose_reply_after", "The connection is closed without an answer; all was done."
    RESET_BEFORE = "reset_before", "The connection is reset (RST); nothing was done."
    RESET_AFTER = "reset_after", "The connection is reset (RST); all was done."
    SLOW_BEFORE = "slow_before", "The work is done `Fault.seconds` late, also if the client has gone by then."
    SLOW_AFTER = "slow_after", "The work is done at once and the reply comes `Fault.seconds` late."
    STALL_BEFORE = "stall_before", "No answer, ever, on a connection that stays open; nothing is done."
    STALL_AFTER = "stall_after", "No answer, ever, on a connection that stays open; all was done."
    CUT_HEAD_BEFORE = "cut_head_before", "The connection is closed in the middle of the headers; nothing was done."
    CUT_HEAD_AFTER = "cut_head_after", "The connection is closed in the middle of the headers; all was done."
    CUT_BODY_BEFORE = "cut_body_before", "The connection is closed in the middle of a 200's body; nothing was done."
    CUT_BODY_AFTER = "cut_body_after", "The connection is closed in the middle of the reply's body; all was done."
    PROCESS_LATE = (
        "process_late",
        (
            "The connection is closed without an answer, or that error is answered (`Fault.status`, `Fault.body`); "
            "the work is done `Fault.seconds` later all the same."
        ),
    )
    RETRANSMIT = (
        "retransmit",
        (
            "The connection is reset (RST), and the work is done `Fault.seconds` later all the same: a copy of the "
            "request was still on its way."
        ),
    )
    RATE_LIMIT = "rate_limit", "429, with `Fault.retry_after` if given; nothing was done."
    ERROR_BEFORE = (
        "error_before",
        "An error (`Fault.status`, `Fault.body`), 500 or any other: 503, or 408, 409, 425, 499; nothing was done.",
    )
    ERROR_AFTER = (
        "error_after",
        "An error (`Fault.status`, `Fault.body`), 500 or any other: 503, or 408, 409, 425, 499; all was done.",
    )
    PROXY_PAGE_BEFORE = "proxy_page_before", "An HTML page of something in between (`Fault.status`); nothing was done."
    PROXY_PAGE_AFTER = (
        "proxy_page_after",
        "An HTML page of something in between (`Fault.status`) although all was done.",
    )
    REDIRECT_BEFORE = "redirect_before", "A redirect (`Fault.status`, `Fault.location`); nothing was done."
    REDIRECT_AFTER = "redirect_after", "A redirect (`Fault.status`, `Fault.location`) although all was done."
    WRONG_SHAPE_BEFORE = "wrong_shape_before", "A 200 with `Fault.document` for a body; nothing was done."
    WRONG_SHAPE_AFTER = "wrong_shape_after", "A 200 with `Fault.document` for a body although all was done."
    REPORT_STATE_BEFORE = (
        "report_state_before",
        "A 200 for a capture or a status that reports `Fault.state`; nothing was done.",
    )
    REPORT_STATE_AFTER = (
        "report_state_after",
        "The right reply, but with `Fault.state` for the state; all was done. On ``status``, a state goes back so.",
    )
    STALE_STATUS = (
        "stale_status",
        "A status as it was `Fault.seconds` ago, as a replica that lags reports it: 404 for a younger transaction.",
    )
    CACHED_REPLY = (
        "cached_reply",
        "The first reply to the same path, from memory, with its ``Age``: as a cache answers that ignores headers.",
    )

    @property
    def effect(self) -> str:
        """What it does, whichever side of the work it is on."""
        return self.value.removesuffix("_before").removesuffix("_after")

    @property
    def after_work(self) -> bool:
        """Whether the work was done when it is injected."""
        return self.value.endswith("_after")


class DeliveryFaultKind(_KindWithMeaning):
    """What goes wrong with a webhook delivery; ``meaning`` says it in words."""

    DUPLICATE = "duplicate", "Once accepted it is delivered again, signed anew."
    LATE = "late", "It arrives `DeliveryFault.seconds` after it was signed. A token lives 90 s."
    REORDER = "reorder", "It arrives after the one that should follow it, if there is one."
    CLOCK_SKEW = "clock_skew", "``iat`` and ``exp`` are `DeliveryFault.seconds` ahead; behind, if negative."
    ROTATE_KEY = "rotate_key", "The signing key is replaced between signing and sending; see `DeliveryFault.keep_old`."


_LASTING = {FaultKind.STALE_STATUS, FaultKind.CACHED_REPLY}
_ROUTES_OF_KIND: Mapping[FaultKind, Sequence[str]] = {
    FaultKind.REPORT_STATE_BEFORE: ("capture", "status"),
    FaultKind.REPORT_STATE_AFTER: ("preauthorize", "charge", "capture", "status"),
    FaultKind.STALE_STATUS: ("status",),
    FaultKind.CACHED_REPLY: ("status",),
}


def _check_date(_: object, attribute: attrs.Attribute[Any], value: int | datetime | None) -> None:
    if not isinstance(value, datetime):
        return
    try:
        fits = value.tzinfo is not None and bool(value.astimezone(UTC))
    except OverflowError:
        fits = False
    if not fits:
        raise ValueError(f"{attribute.name}: a date must have an offset, and be in the years 1 to 9999 of UTC")


def _times(fault: Fault | DeliveryFault) -> int | None:
    return None if fault.probability < 1 or fault.kind in _LASTING else 1


def _probability() -> float:
    return attrs.field(default=1.0, validator=within(0, 1))


def _count() -> int | None:
    return attrs.field(
        default=attrs.Factory(_times, takes_self=True), validator=attrs.validators.optional(attrs.validators.ge(1))
    )


@attrs.frozen(kw_only=True)
class Fault:
    """One fault, and which requests it applies to.

    Attributes:
        kind: What goes wrong.
        route: One of `ROUTES`, for example ``"capture"``; None for every call.
        identifier: Apply only to requests with this id in their path; None for any.
        probability: That it is injected into a request that fits, from 0 to 1. Drawn from the sandbox's seed.
        count: How many times it is injected, None for no limit. Left out: once, or without limit if ``probability`` is
            less than 1, or for a ``STALE_STATUS`` and a ``CACHED_REPLY``.
        seconds: How late a ``SLOW``, a ``PROCESS_LATE`` or a ``RETRANSMIT`` is, and how old the state of a
            ``STALE_STATUS``; a year at most.
        status: Of an ``ERROR`` (500 if left out), a ``PROXY_PAGE`` (502), a ``REDIRECT`` (307) or a ``PROCESS_LATE``
            (no reply).
        body: The body of an error.
        retry_after: The header of a ``RATE_LIMIT``: seconds, or a date (aware); None for no such header.
        location: Where a ``REDIRECT`` leads; the same path if left out.
        document: The body of a ``WRONG_SHAPE``.
        state: What a ``REPORT_STATE`` reports: any string is a state.
    """

    kind: FaultKind
    route: str | None = attrs.field(default=None, validator=attrs.validators.optional(attrs.validators.in_(ROUTES)))
    identifier: str | None = None
    probability: float = _probability()
    count: int | None = _count()
    seconds: float = attrs.field(default=1.0, validator=within(0))
    status: int | None = attrs.field(
        default=None, validator=attrs.validators.optional((attrs.validators.ge(200), attrs.validators.le(599)))
    )
    body: Literal["json", "html", "empty"] = attrs.field(
        default="json", validator=attrs.validators.in_(("json", "html", "empty"))
    )
    retry_after: int | datetime | None = attrs.field(default=None, validator=_check_date)
    location: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.matches_re(r"[\x21-\x7e]*"))
    )
    document: JSONValue = attrs.field(factory=lambda: {"unexpected": True})
    state: str = "processing"

    def fits(self, route: str, identifiers: Sequence[str]) -> bool:
        """Return whether a request is one of those that it may apply to."""
        return (
            (self.route is None or self.route == route)
            and (self.identifier is None or self.identifier in identifiers)
            and route in _ROUTES_OF_KIND.get(self.kind, ROUTES)
        )

    @classmethod
    def from_text(cls, text: str) -> Fault:
        """Read a fault as it is written on a command line.

        Args:
            text: The kind, then ``name=value`` pairs, for example
                ``"lose_reply_after route=capture probability=0.05"``.

        Raises:
            ValueError: There is no such kind, name or value.
        """
        kind, _, pairs = text.strip().partition(" ")
        given: dict[str, Any] = {}
        for pair in pairs.split():
            name, _, value = pair.partition("=")
            if name not in _READERS:
                raise ValueError(f"{name} is not one of {', '.join(_READERS)}")
            given[name] = _READERS[name](value)
        return cls(kind=FaultKind(kind), **given)


_READERS: Mapping[str, Callable[[str], object]] = {
    "route": str,
    "identifier": str,
    "probability": float,
    "count": int,
    "seconds": float,
    "status": int,
    "body": str,
    "retry_after": int,
    "location": str,
    "state": str,
}


@attrs.frozen(kw_only=True)
class DeliveryFault:
    """One fault of webhook deliveries, and which attempts it applies to. Retries are attempts of their own.

    Attributes:
        kind: What goes wrong.
        webhook: Apply only to deliveries of this webhook, by its ``identifier``; None for any.
        probability: That it is injected into an attempt that fits, from 0 to 1. Drawn from the sandbox's seed.
        count: How many times it is injected, None for no limit. Left out: once, or without limit if ``probability`` is
            less than 1.
        seconds: How much, for ``LATE`` and ``CLOCK_SKEW``; a year at most.
        keep_old: Whether the key set still holds the old key after a ``ROTATE_KEY``.
    """

    kind: DeliveryFaultKind
    webhook: str | None = None
    probability: float = _probability()
    count: int | None = _count()
    seconds: float = attrs.field(default=0.0, validator=within(-MOST_SECONDS))
    keep_old: bool = True

    def fits(self, webhook: str, kinds: Collection[DeliveryFaultKind]) -> bool:
        """Return whether an attempt is one of those that it may apply to."""
        return self.kind in kinds and (self.webhook is None or self.webhook == webhook)


class _AnyFault(Protocol):
    @property
    def kind(self) -> StrEnum: ...
    @property
    def probability(self) -> float: ...
    @property
    def count(self) -> int | None: ...


_F = TypeVar("_F", bound=_AnyFault)


@attrs.frozen(kw_only=True)
class ActiveFault(Generic[_F]):
    """A fault that is switched on.

    Attributes:
        number: Counts the faults that were added; `Faults.remove` takes it.
        fault: The fault.
        left: How many times it will still be injected; None for no limit.
        draws: How many random numbers it has drawn.
    """

    number: int
    fault: _F
    left: int | None
    draws: int


class Faults(Generic[_F]):
    """The faults that are switched on, in the order of adding. At most one is injected into a request: the first match.

    Each draws from its own random numbers, made of the seed and its position. So the same requests in the same order
    meet the same faults, and what happens on other routes in between makes no difference.
    """

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._added = 0
        self._armed: list[_Armed[_F]] = []
        self._injected: Counter[str] = Counter()

    @property
    def injected(self) -> Mapping[str, int]:
        """How often each kind has been injected so far."""
        return dict(self._injected)

    @property
    def active(self) -> tuple[ActiveFault[_F], ...]:
        """The faults that are switched on, in the order of adding."""
        return tuple(
            ActiveFault(number=each.number, fault=each.fault, left=each.left, draws=each.draws) for each in self._armed
        )

    @property
    def seed(self) -> str:
        """What the random numbers are made of."""
        return self._seed

    def add(self, *faults: _F) -> tuple[int, ...]:
        """Switch faults on, and return their numbers."""
        first = self._added
        for fault in faults:
            self._armed.append(_Armed(self._added, fault, fault.count, self._random(self._added)))
            self._added += 1
        return tuple(range(first, self._added))

    def remove(self, number: int) -> None:
        """Switch a fault off.

        Raises:
            KeyError: None that is switched on has this number.
        """
        armed = next((armed for armed in self._armed if armed.number == number), None)
        if armed is None:
            raise KeyError(number)
        self._armed.remove(armed)

    def clear(self) -> None:
        """Switch all of them off."""
        self._armed.clear()

    def reseed(self, seed: str) -> None:
        """Let the faults that are switched on, and those to come, draw anew from another seed."""
        self._seed = seed
        for armed in self._armed:
            armed.random, armed.draws = self._random(armed.number), 0

    def restore(self, active: Sequence[ActiveFault[_F]], *, seed: str, added: int, injected: Mapping[str, int]) -> None:
        """Go on where another one was.

        Args:
            active: Its `active` faults.
            seed: Its `seed`.
            added: How many were added to it.
            injected: Its counts.
        """
        self._seed, self._added, self._injected = seed, added, Counter(injected)
        self._armed = [_Armed(each.number, each.fault, each.left, self._random(each.number)) for each in active]
        for armed, each in zip(self._armed, active, strict=True):
            armed.skip(each.draws)

    @property
    def added(self) -> int:
        """How many were added so far."""
        return self._added

    def match(self, fits: Callable[[_F], bool]) -> _F | None:
        """Return the fault to inject now, if any, and count it."""
        for armed in self._armed:
            if fits(armed.fault) and armed.draw():
                if armed.left == 0:
                    self._armed.remove(armed)
                self._injected[armed.fault.kind] += 1
                return armed.fault
        return None

    def _random(self, number: int) -> Random:
        return Random(f"{self._seed}/{number}")  # noqa: S311 - reproducible on purpose


@attrs.define(eq=False)
class _Armed(Generic[_F]):
    number: int
    fault: _F
    left: int | None
    random: Random
    draws: int = 0

    def draw(self) -> bool:
        """Return whether to inject it this time."""
        if self.fault.probability < 1:
            self.draws += 1
            if self.random.random() >= self.fault.probability:
                return False
        if self.left is not None:
            self.left -= 1
        return True

    def skip(self, draws: int) -> None:
        """Go on after so many random numbers."""
        for _ in range(draws):
            self.random.random()
        self.draws = draws


def damage(fault: Fault, reply: SandboxResponse, *, path: str, identifier: str) -> SandboxResponse | Broken:
    """Return what the fault leaves of a reply.

    Args:
        fault: One that replaces or breaks the reply.
        reply: What would have been answered.
        path: The request's path.
        identifier: The first id in the path.
    """
    match fault.kind.effect:
        case "lose_reply" | "reset" | "retransmit" | "cut_head" | "cut_body":
            return _broken(fault, reply)
        case "process_late" if fault.status is None:
            return Broken()
        case "report_state":
            return _with_state(fault, reply, path, identifier)
        case _:
            return _replacement(fault, path)


def _broken(fault: Fault, reply: SandboxResponse) -> Broken:
    match fault.kind.effect:
        case "cut_head":
            head = _responses.head(reply)
            return Broken(head[: len(head) // 2])
        case "cut_body":
            return Broken(_responses.head(reply) + reply.body[: len(reply.body) // 2])
        case effect:
            return Broken(reset=effect in {"reset", "retransmit"})


def _with_state(fault: Fault, reply: SandboxResponse, path: str, identifier: str) -> SandboxResponse:
    if not fault.kind.after_work:
        named: dict[str, JSONValue] = {"identifier": identifier} if path.endswith("/capture") else {}
        return _responses.json(200, {**named, "state": fault.state})
    document = json.parse(reply.body)
    if reply.status != 200 or not isinstance(document, dict):
        return reply
    field = "transaction_state" if "transaction_state" in document else "state"
    return attrs.evolve(reply, body=json.dump({**document, field: fault.state}))


def _replacement(fault: Fault, path: str) -> SandboxResponse:
    match fault.kind.effect:
        case "rate_limit":
            return _responses.json(429, {"detail": "Too Many Requests"}, _retry_after(fault.retry_after))
        case "redirect":
            location = path if fault.location is None else fault.location
            return _responses.empty(fault.status or 307, {"Location": location})
        case "wrong_shape":
            return _responses.json(200, fault.document)
        case "proxy_page":
            return _responses.page(fault.status or 502)
        case _:
            return _error(fault.status or 500, fault.body)


def _error(status: int, body: Literal["json", "html", "empty"]) -> SandboxResponse:
    if body == "json":
        return _responses.json(status, {"detail": _responses.phrase(status)})
    return _responses.page(status) if body == "html" else _responses.empty(status)


def _retry_after(value: int | datetime | None) -> Mapping[str, str]:
    if value is None:
        return {}
    return {
        "Retry-After": str(value) if isinstance(value, int) else format_datetime(value.astimezone(UTC), usegmt=True)
    }
