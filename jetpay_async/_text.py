"""Text of others, made fit for logs, terminals, files and error messages: the only place that does so."""

from __future__ import annotations

import re

TEXT_LIMIT = 500
"""Characters that are kept of a text."""


def printable(text: str, limit: int | None = TEXT_LIMIT, *, keep: str = "") -> str:
    """Replace what does not print by its escape, and cut what is too long.

    Control characters move a terminal's cursor, line breaks forge lines of a log, marks of direction turn around what
    is read, and what has no width makes two ids look the same.

    Args:
        text: As the service, a file or a person wrote it.
        limit: Characters to keep of it; all of them if None.
        keep: Characters that stay as they are.
    """
    plain = str.__str__(text)[:limit]
    if plain.isprintable():
        return plain
    return "".join(
        character if character.isprintable() or character in keep else character.encode("unicode_escape").decode()
        for character in plain
    )


_is_uuid = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}").fullmatch


def canonical_id(identifier: str) -> str:
    """Spell an id in one way: UUIDs are written in both cases, with and without hyphens."""
    text = identifier.casefold()
    return text.replace("-", "") if _is_uuid(text) else text
