"""The page at ``/_sandbox/``: what it serves, what its buttons do, and the stream that keeps it up to date."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aiohttp import web

from jetpay_async._core import json
from jetpay_async.sandbox import _page_html, _responses
from jetpay_async.sandbox._cards import CARDS
from jetpay_async.sandbox._faults import Fault, FaultKind
from jetpay_async.sandbox._guard import guard

if TYPE_CHECKING:
    from jetpay_async.sandbox._control import Controlled
    from jetpay_async.sandbox._parts import Parts
    from jetpay_async.sandbox._responses import SandboxResponse

__all__ = ["PAGE", "Page"]

PAGE = "/_sandbox/"

_STATIC = Path(__file__).parent / "static"

# Nothing but its own files, and no frame around it.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_BETWEEN_UPDATES_SECONDS = 0.2
# A browser that has gone is noticed when it is written to.
_BETWEEN_HEARTBEATS_SECONDS = 10.0

_SLOW_SECONDS = 10.0


class Page:
    """The page of one sandbox.

    Args:
        sandbox: What its buttons control.
        parts: What it shows.
    """

    def __init__(self, sandbox: Controlled, parts: Parts) -> None:
        self._sandbox = sandbox
        self._parts = parts

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes to an application's."""
        router.add_get(PAGE.rstrip("/"), self._guarded(self._redirect))
        router.add_get(PAGE, self._guarded(self._show))
        router.add_get(f"{PAGE}page.css", self._guarded(_file("page.css", "text/css")))
        router.add_get(f"{PAGE}page.js", self._guarded(_file("page.js", "text/javascript")))
        router.add_get(f"{PAGE}stream", self._guarded(self._stream))
        router.add_post(f"{PAGE}actions/{{name}}", self._guarded(self._act))

    def _guarded(self, handle: _Handle) -> _Handle:
        async def handle_guarded(request: web.Request) -> web.StreamResponse:
            rejected = guard(request, self._parts.api.tokens)
            return await handle(request) if rejected is None else _sent(rejected)

        return handle_guarded

    async def _redirect(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=308, headers={"Location": PAGE})

    async def _show(self, request: web.Request) -> web.StreamResponse:
        text = _page_html.document(self._parts, request.query.get("report", "")[:200])
        return web.Response(text=text, content_type="text/html", headers=_HEADERS)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Send the sections that have changed, for as long as the browser listens."""
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        known: Mapping[str, str] = {}
        version = -1
        try:
            while True:
                now = _page_html.sections(self._parts)
                changed = {name: text for name, text in now.items() if known.get(name) != text}
                # A line that begins with a colon is a comment: it shows whether the browser is still there.
                event = b"event: sections\ndata: " + json.dump(changed) + b"\n\n" if changed else b": still here\n\n"
                await response.write(event)
                known = now
                await asyncio.sleep(_BETWEEN_UPDATES_SECONDS)
                try:
                    async with asyncio.timeout(_BETWEEN_HEARTBEATS_SECONDS):
                        version = await self._parts.journal.wait(version)
                except TimeoutError:
                    pass
        except ConnectionError:
            return response

    async def _act(self, request: web.Request) -> web.StreamResponse:
        name, form = request.match_info["name"], await request.post()
        if "Origin" not in request.headers:  # every browser sends it with a form
            return _sent(_responses.json(403, {"detail": "This is for the buttons of the page; use /_sandbox/api/"}))
        if name == "add_payer":
            report = self._add_payer(str(form.get("card", "")))
        elif name in _page_html.ACTIONS:
            report = self._actions()[name]()
        else:
            return _sent(_responses.json(404, {"detail": "There is no such action"}))
        self._parts.journal.touch()
        if "application/json" in request.headers.get("Accept", ""):
            return web.json_response({"message": report}, headers=_HEADERS)
        # A browser without scripts comes back to the page.
        return web.Response(status=303, headers={"Location": f"{PAGE}?{urlencode({'report': report})}"})

    def _actions(self) -> Mapping[str, Callable[[], str]]:
        return {
            "lose_reply": lambda: self._add(
                Fault(kind=FaultKind.LOSE_REPLY_AFTER), "The next reply will be lost, whatever the call."
            ),
            "slow_bank": lambda: self._add(
                Fault(kind=FaultKind.SLOW_AFTER, route="capture", seconds=_SLOW_SECONDS, count=None),
                f"Captures take {_SLOW_SECONDS:g} s from now on.",
            ),
            "fail_capture": lambda: self._add(
                Fault(kind=FaultKind.ERROR_BEFORE, route="capture", status=402),
                "The next capture will be answered 402, and take no money.",
            ),
            "remove_faults": self._remove_faults,
            "pause": lambda: self._pause(paused=True),
            "resume": lambda: self._pause(paused=False),
            "redeliver": self._redeliver,
            "rotate_key": self._rotate_key,
            "reset": self._reset,
        }

    def _add_payer(self, card: str) -> str:
        numbers = [number for number in CARDS if number.endswith(card)]
        payer = self._sandbox.add_payer(card_number=numbers[0]) if card and numbers else self._sandbox.add_payer()
        return f"Added a payer: contact {payer.contact_id}, card {payer.credit_card_id}."

    def _add(self, fault: Fault, report: str) -> str:
        self._parts.faults.add(fault)
        return report

    def _remove_faults(self) -> str:
        self._parts.faults.clear()
        self._parts.delivery_faults.clear()
        return "No fault is switched on."

    def _pause(self, *, paused: bool) -> str:
        self._parts.deliveries.pause(paused)
        return "Deliveries are paused." if paused else "Deliveries go on."

    def _redeliver(self) -> str:
        count = self._parts.webhooks.redeliver(None)
        return f"Delivering the last event again, to {count} webhook{'' if count == 1 else 's'}."

    def _rotate_key(self) -> str:
        self._parts.keys.rotate(keep_old=True)
        return "Deliveries are signed with a new key; the old ones are still published."

    def _reset(self) -> str:
        self._sandbox.reset()
        return "Everything is as it was at the start."


_Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _file(name: str, content_type: str) -> _Handle:
    text = (_STATIC / name).read_text(encoding="utf-8")

    async def serve_file(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type, headers=_HEADERS)

    return serve_file


def _sent(reply: SandboxResponse) -> web.StreamResponse:
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers)
