"""``jetpay webhooks dead-letters``: inspect, replay and discard events that could not be handled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jetpay_async._cli.commands.inbox import open_inbox
from jetpay_async._cli.io.console import to_json, write_message, write_output
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._text import printable
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetpay_async.webhooks import DeadLetter

__all__ = ["discard", "list_dead_letters", "replay"]


def list_dead_letters(*, inbox: str, source: str, as_json: bool) -> int:
    """List the dead letters of an inbox."""
    letters = asyncio.run(_read(inbox, source))
    for letter in letters:
        write_output(to_json(_document(letter)) if as_json else _line(letter))
    if not letters and not as_json:
        write_message("there are no dead letters")
    return ExitStatus.DONE


def replay(*, inbox: str, source: str, event_ids: Sequence[int]) -> int:
    """Store the events of dead letters again; a running receiver handles them."""
    asyncio.run(_change(inbox, source, event_ids, replay=True))
    write_message(f"stored again, to be handled by a running receiver: {_listed(event_ids)}")
    return ExitStatus.DONE


def discard(*, inbox: str, source: str, event_ids: Sequence[int]) -> int:
    """Forget dead letters; their events count as handled."""
    asyncio.run(_change(inbox, source, event_ids, replay=False))
    write_message(f"discarded: {_listed(event_ids)}")
    return ExitStatus.DONE


async def _read(place: str, source: str) -> Sequence[DeadLetter]:
    async with open_inbox(place, source) as inbox:
        return await inbox.dead_letters()


async def _change(place: str, source: str, event_ids: Sequence[int], *, replay: bool) -> None:
    async with open_inbox(place, source) as inbox:
        known = {letter.event.id for letter in await inbox.dead_letters()}
        unknown = [event_id for event_id in event_ids if event_id not in known]
        if unknown:
            raise ConfigurationError(f"not a dead letter: {_listed(unknown)}; nothing was changed")
        for event_id in dict.fromkeys(event_ids):
            await (inbox.replay_dead_letter(event_id) if replay else inbox.discard_dead_letter(event_id))


def _listed(event_ids: Sequence[int]) -> str:
    return ", ".join(map(str, event_ids))


def _document(letter: DeadLetter) -> dict[str, object]:
    return {
        "event_id": letter.event.id,
        "type": letter.event.type,
        "transaction_id": getattr(letter.event, "transaction_id", None),
        "webhook_id": letter.event.webhook_id,
        "created_at": letter.event.created_at.isoformat(),
        "attempts": letter.attempts,
        "failed_at": letter.failed_at.isoformat(),
        "error": letter.error,
    }


def _line(letter: DeadLetter) -> str:
    parts = (
        letter.event.id,
        printable(letter.event.type),
        printable(getattr(letter.event, "transaction_id", "-")),
        f"{letter.attempts} attempts",
        f"{letter.failed_at:%Y-%m-%d %H:%M:%S} UTC",
        printable(letter.error),
    )
    return "  ".join(map(str, parts))
