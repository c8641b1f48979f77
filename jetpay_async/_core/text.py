"""Text of others, made fit for logs, terminals and error messages."""

from __future__ import annotations

TEXT_LIMIT = 500
"""Characters that are kept of a text."""


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    """Replace what does not print by its escape, and cut what is too long.

    Control characters move a terminal's cursor, line breaks forge lines of a log, and marks of direction turn around
    what is read.

    Args:
        text: As the service wrote it.
        limit: Characters to keep of it.
    """
    plain = str.__str__(text)[:limit]
    if plain.isprintable():
        return plain
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in plain
    )
