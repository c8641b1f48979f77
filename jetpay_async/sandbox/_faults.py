"""Faults on request: which request one strikes, and what it makes of the reply. Pure.

A fault strikes at one of two points. *Before the work* the service has done nothing and never will for this request
(`FaultKind.SLOW_BEFORE` excepted, which does the work late); *after the work* all is done and only the reply suffers.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Literal

import attrs

from jetpay_async.sandbox import _replies
from jetpay_async.sandbox._replies import Broken, Reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jetpay_async.models import JSONValue

__all__ = ["Fault", "FaultKind", "Faults", "spoil"]


class FaultKind(StrEnum):
    """What goes wrong, and on which side of the work."""

    LOSE_REPLY_BEFORE = "lose_reply_before"
    """The connection is closed without an answer; nothing was done."""
    LOSE_REPLY_AFTER = "lose_reply_after"
    """The connection is closed without an answer; all was done."""
    RESET_BEFORE = "reset_before"
    """The connection is reset (RST); nothing was done."""
    RESET_AFTER = "reset_after"
    """The connection is reset (RST); all was done."""
    SLOW_BEFORE = "slow_before"
    """The work is done `Fault.seconds` late, also if the client has gone by then."""
    SLOW_AFTER = "slow_after"
    """The work is done at once and the reply comes `Fault.seconds` late."""
    STALL_BEFORE = "stall_before"
    """No answer, ever, on a connection that stays open; nothing is done."""
    STALL_AFTER = "stall_after"
    """No answer, ever, on a connection that stays open; all was done."""
    CUT_HEAD_BEFORE = "cut_head_before"
    """The connection is closed in the middle of the headers; nothing was done."""
    CUT_HEAD_AFTER = "cut_head_after"
    """The connection is closed in the middle of the headers; all was done."""
    CUT_BODY_BEFORE = "cut_body_before"
    """The connection is closed in the middle of a 200's body; nothing was done."""
    CUT_BODY_AFTER = "cut_body_after"
    """The connection is closed in the middle of the reply's body; all was done."""
    RATE_LIMIT = "rate_limit"
    """429, with `Fault.retry_after` if given; nothing was done."""
    ERROR_BEFORE = "error_before"
    """A 5xx (`Fault.status`, `Fault.body`); nothing was done."""
    ERROR_AFTER = "error_after"
    """A 5xx (`Fault.status`, `Fault.body`) although all was done."""
    PROXY_PAGE_BEFORE = "proxy_page_before"
    """An HTML page of something in between (`Fault.status`); nothing was done."""
    PROXY_PAGE_AFTER = "proxy_page_after"
    """An HTML page of something in between (`Fault.status`) although all was done."""
    REDIRECT_BEFORE = "redirect_before"
    """A redirect (`Fault.status`, `Fault.location`); nothing was done."""
    REDIRECT_AFTER = "redirect_after"
    """A redirect (`Fault.status`, `Fault.location`) although all was done."""
    WRONG_SHAPE_BEFORE = "wrong_shape_before"
    """A 200 with `Fault.document` for a body; nothing was done."""
    WRONG_SHAPE_AFTER = "wrong_shape_after"
    """A 200 with `Fault.document` for a body although all was done."""

    @property
    def effect(self) -> str:
        """What it does, whichever side of the work it is on."""
        return self.value.removesuffix("_before").removesuffix("_after")

    @property
    def after_work(self) -> bool:
        """Whether the work was done when it strikes."""
        return self.value.endswith("_after")


_DEFAULT_STATUS = {"error": 500, "proxy_page": 502, "redirect": 307}


@attrs.frozen(kw_only=True)
class Fault:
    """One fault, and which requests it strikes.

    Attributes:
        kind: What goes wrong.
        route: The route's name, for example ``"capture"``; None for every route.
        identifier: Strike only requests with this id in their path; None for any.
        count: How many times it strikes, None for no limit. Left out: once, or without limit if ``probability`` is
            less than 1.
        probability: Of striking a request that fits, from 0 to 1. Drawn from the sandbox's seed.
        seconds: How late a ``SLOW`` one is.
        status: Of an ``ERROR`` (500 if left out), a ``PROXY_PAGE`` (502) or a ``REDIRECT`` (307).
        body: What an ``ERROR`` answers with.
        retry_after: What a ``RATE_LIMIT`` tells: seconds, or a date (aware); None for no such header.
        location: Where a ``REDIRECT`` leads; the same path if left out.
        document: What a ``WRONG_SHAPE`` answers with.
    """

    kind: FaultKind = attrs.field(converter=FaultKind)
    route: str | None = None
    identifier: str | None = None
    probability: float = attrs.field(default=1.0, validator=(attrs.validators.ge(0), attrs.validators.le(1)))
    count: int | None = attrs.field()
    seconds: float = 1.0
    status: int | None = None
    body: Literal["json", "html", "empty"] = "json"
    retry_after: int | datetime | None = None
    location: str | None = None
    document: JSONValue = attrs.field(factory=lambda: {"unexpected": True})

    @count.default  # pyright: ignore[reportAttributeAccessIssue, reportUntypedFunctionDecorator]
    def _(self) -> int | None:
        return 1 if self.probability == 1 else None


class Faults:
    """The faults that are switched on, in the order of adding. A request suffers at most one: the first that strikes.

    Each fault draws from its own stream, made of the seed and its number. So the same requests in the same order
    suffer the same, and what other routes do in between makes no difference.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._added = 0
        self._armed: list[_Armed] = []
        self._struck: Counter[FaultKind] = Counter()

    @property
    def struck(self) -> Mapping[FaultKind, int]:
        """How often each kind has struck so far."""
        return dict(self._struck)

    def add(self, *faults: Fault) -> None:
        """Switch faults on."""
        for fault in faults:
            # Reproducible on purpose.
            self._armed.append(_Armed(fault, Random(f"{self._seed}/{self._added}"), fault.count))  # noqa: S311
            self._added += 1

    def clear(self) -> None:
        """Switch all of them off."""
        self._armed.clear()

    def strike(self, route: str, identifiers: Sequence[str]) -> Fault | None:
        """Decide what a request suffers."""
        for armed in self._armed:
            if armed.strikes(route, identifiers):
                if armed.left == 0:
                    self._armed.remove(armed)
                self._struck[armed.fault.kind] += 1
                return armed.fault
        return None


@attrs.define(eq=False)
class _Armed:
    fault: Fault
    random: Random
    left: int | None

    def strikes(self, route: str, identifiers: Sequence[str]) -> bool:
        fault = self.fault
        if fault.route is not None and fault.route != route:
            return False
        if fault.identifier is not None and fault.identifier not in identifiers:
            return False
        if fault.probability < 1 and self.random.random() >= fault.probability:
            return False
        if self.left is not None:
            self.left -= 1
        return True


def spoil(fault: Fault, reply: Reply, path: str) -> Reply | Broken:
    """Make of a reply what the fault leaves of it.

    Args:
        fault: Not a ``SLOW`` or ``STALL`` one: these leave the reply as it is.
        reply: What would have been answered.
        path: The request's path.
    """
    match fault.kind.effect:
        case "lose_reply":
            return Broken()
        case "reset":
            return Broken(reset=True)
        case "cut_head":
            head = _replies.head(reply)
            return Broken(head[: len(head) // 2])
        case "cut_body":
            return Broken(_replies.head(reply) + reply.body[: len(reply.body) // 2])
        case _:
            return _replacement(fault, path)


def _replacement(fault: Fault, path: str) -> Reply:
    effect = fault.kind.effect
    status = fault.status or _DEFAULT_STATUS.get(effect, 200)
    if effect == "rate_limit":
        return _replies.json(429, {"detail": "Too Many Requests"}, _retry_after(fault.retry_after))
    if effect == "redirect":
        return _replies.empty(status, {"Location": path if fault.location is None else fault.location})
    if effect == "wrong_shape":
        return _replies.json(200, fault.document)
    if effect == "proxy_page" or fault.body == "html":
        return _replies.html(status, f"<html><head><title>{status}</title></head><body><h1>{status}</h1></body></html>")
    return (
        _replies.empty(status) if fault.body == "empty" else _replies.json(status, {"detail": "Internal Server Error"})
    )


def _retry_after(value: int | datetime | None) -> Mapping[str, str]:
    if value is None:
        return {}
    return {
        "Retry-After": str(value) if isinstance(value, int) else format_datetime(value.astimezone(UTC), usegmt=True)
    }
