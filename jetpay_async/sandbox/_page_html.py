"""The page at ``/_sandbox/`` as HTML: its sections, each of which is replaced when it changes. Pure.

No card number and no token is in it.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING

from jetpay_async.sandbox._cards import CARDS
from jetpay_async.sandbox._redaction import redacted_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jetpay_async.sandbox._faults import ActiveFault, DeliveryFault, Fault
    from jetpay_async.sandbox._journal import RequestRecord
    from jetpay_async.sandbox._parts import Parts
    from jetpay_async.sandbox._state import Transaction

__all__ = ["ACTIONS", "document", "sections"]

_DEBITS = 25
_REQUESTS = 40
_DELIVERIES = 25
_REQUESTS_OF_A_DEBIT = 6
# Older states of a debit are left out, so that a page that is watched costs little.
_EVENTS = 2000

ACTIONS: Mapping[str, str] = {
    "lose_reply": "Lose the next reply",
    "slow_bank": "Make the bank slow",
    "fail_capture": "Fail the next capture",
    "remove_faults": "Remove all faults",
    "pause": "Pause deliveries",
    "resume": "Resume deliveries",
    "redeliver": "Redeliver",
    "rotate_key": "Rotate the key",
    "reset": "Reset",
}
"""The buttons, by the name of what they do."""

_TITLES = {
    "debits": "Debits",
    "requests": "Requests",
    "deliveries": "Deliveries",
    "faults": "Faults that are switched on",
    "webhooks": "Webhooks",
}


def document(parts: Parts, report: str) -> str:
    """Return the whole page."""
    live = sections(parts)
    buttons = "".join(
        f'<form method="post" action="actions/{name}"><button>{label}</button></form>'
        for name, label in ACTIONS.items()
    )
    cards = "".join(
        f'<option value="{number[-4:]}">…{number[-4:]}: {escape(card.meaning)}</option>'
        for number, card in CARDS.items()
    )
    tables = "".join(
        f'<h2 id="{name}-title">{title}</h2>'
        f'<div class="scroll" role="region" aria-labelledby="{name}-title" tabindex="0" id="{name}">{live[name]}</div>'
        for name, title in _TITLES.items()
    )
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Jetpay sandbox</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page.css">
<script src="page.js" defer></script>
</head>
<body>
<a class="skip" href="#debits-title">Skip to the debits</a>
<header><h1>Jetpay sandbox</h1>
<span id="connection" role="status" class="quiet">Reload to see what is new</span></header>
<main>
<div id="counters">{live["counters"]}</div>
<h2 id="actions-title">What to try</h2>
<div class="actions" role="group" aria-labelledby="actions-title">
<form method="post" action="actions/add_payer">
<select name="card" aria-label="Card of the payer">{cards}</select><button>Add a payer</button></form>
{buttons}
</div>
<p id="report" role="status">{escape(report)}</p>
{tables}
</main>
</body>
</html>
"""


def sections(parts: Parts) -> dict[str, str]:
    """Return the parts of the page that change, by their ids."""
    return {
        "counters": _counters(parts),
        "debits": _debits(parts),
        "requests": _requests(parts),
        "deliveries": _deliveries(parts),
        "faults": _faults(parts),
        "webhooks": _webhooks(parts),
    }


def _counters(parts: Parts) -> str:
    debits = [each for each in parts.account.transactions.values() if each.kind == "debit"]
    twice = len(parts.account.captured_twice)
    counters = {
        "Debits": str(len(debits)),
        "Captured": str(sum(each.captures > 0 for each in debits)),
        "Captured twice": f'<span class="{"bad" if twice else "good"}">{twice}</span>',
        "Requests": str(parts.journal.total),
        "Faults injected": str(sum(parts.faults.injected.values())),
        "Events": str(parts.account.events.last_id),
        "Deliveries": f"{len(parts.deliveries.attempts)}{' (paused)' if parts.deliveries.paused else ''}",
    }
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in counters.items()) + "</dl>"


def _debits(parts: Parts) -> str:
    debits = [each for each in parts.account.transactions.values() if each.kind == "debit"][: -_DEBITS - 1 : -1]
    shown = {debit.identifier for debit in debits}
    states: dict[str, list[str]] = defaultdict(list)
    events = parts.account.events
    for event in events.since(max(1, events.last_id - _EVENTS)):
        if (identifier := str(event.data.get("transactionId"))) in shown:
            states[identifier].append(str(event.data["state"]))
    requests: dict[str, list[RequestRecord]] = defaultdict(list)
    for record in parts.journal.requests:
        for part in record.path.split("/"):
            if part in shown:
                requests[part].append(record)
    rows = [
        (
            _code(debit.identifier),
            _number(str(debit.amount)),
            _state(debit),
            _number(_times(debit.captures)),
            escape(" → ".join(states[debit.identifier])),
            _happened(requests[debit.identifier]),
        )
        for debit in debits
    ]
    return _table("Debits, the newest first", ("Debit", "Amount", "State", "Captured", "States", "Requests"), rows)


def _state(debit: Transaction) -> str:
    reason = f" ({escape(debit.fail_reason)})" if debit.fail_reason else ""
    return f"{escape(debit.state.value)}{reason}"


def _times(captures: int) -> str:
    return f'<span class="bad">{captures} times</span>' if captures > 1 else ("once" if captures else "no")


def _happened(records: Sequence[RequestRecord]) -> str:
    lines = [f"{record.route}: {_reply(record)}" for record in records[-_REQUESTS_OF_A_DEBIT:]]
    return "<br>".join(lines)


def _reply(record: RequestRecord) -> str:
    fault = f" ({escape(record.fault)})" if record.fault else ""
    if record.seconds is None:
        return f"in progress{fault}"
    return f"{record.status or 'no reply'}{fault}"


def _requests(parts: Parts) -> str:
    records = list(parts.journal.requests)[: -_REQUESTS - 1 : -1]
    rows = [
        (
            _time(record.time),
            escape(record.method),
            _code(record.path),
            "" if record.seconds is None else str(record.status or "no reply"),
            escape(record.fault or ""),
            _number("in progress" if record.seconds is None else f"{1000 * record.seconds:.1f} ms"),
        )
        for record in records
    ]
    return _table("Requests, the newest first", ("Time", "Method", "Path", "Status", "Fault", "Duration"), rows)


def _deliveries(parts: Parts) -> str:
    newest = parts.keys.dump_ids()[-1:]
    rows = [
        (
            _time(attempt.time),
            _code(redacted_url(attempt.url)),
            _events(attempt.event_ids),
            _number(str(attempt.attempt)),
            f"{_code(attempt.kid[:8])} {'current key' if [attempt.kid] == newest else 'older key'}",
            '<span class="good">accepted</span>' if attempt.accepted else '<span class="bad">not accepted</span>',
            escape(str(attempt.status or attempt.error) + (f" ({attempt.fault})" if attempt.fault else "")),
        )
        for attempt in parts.deliveries.attempts[: -_DELIVERIES - 1 : -1]
    ]
    headings = ("Time", "To", "Events", "Attempt", "Signed with", "Verdict", "Reply")
    return _table("Attempts at deliveries, the newest first", headings, rows)


def _events(ids: Sequence[int]) -> str:
    return str(ids[0]) if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"


def _faults(parts: Parts) -> str:
    active: list[ActiveFault[Fault] | ActiveFault[DeliveryFault]]
    active = [*parts.faults.active, *parts.delivery_faults.active]
    rows = [
        (
            _code(each.fault.kind.value),
            escape(getattr(each.fault, "route", None) or "any"),
            "no limit" if each.left is None else str(each.left),
            escape(each.fault.kind.plain_meaning),
        )
        for each in active
    ]
    return _table("Faults that are switched on", ("Fault", "Call", "Times left", "What it does"), rows)


def _webhooks(parts: Parts) -> str:
    rows = [
        (
            _code(redacted_url(webhook.callback_url)),
            escape(webhook.state.value),
            _number(str(webhook.last_sent_event_id or "none")),
            _number(str(max(0, parts.account.events.last_id - webhook.next_event_id + 1))),
        )
        for webhook in parts.webhooks
    ]
    return _table("Webhooks", ("URL", "State", "Last event", "Pending"), rows)


def _table(caption: str, headings: Iterable[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    if not rows:
        return f'<table><caption>{caption}</caption><tbody><tr><td class="quiet">None yet</td></tr></tbody></table>'
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(content: str) -> str:
    return content if content.startswith("<td") else f"<td>{content}</td>"


def _number(content: str) -> str:
    return f'<td class="number">{content}</td>'


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _time(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f'<time datetime="{moment.isoformat(timespec="milliseconds")}">{moment:%H:%M:%S}</time>'
