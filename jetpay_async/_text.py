"""Text of others, made fit for logs, terminals, files and error messages: the only place that does so."""

from __future__ import annotations

import re

# What has no width, or looks like a space, though `str.isprintable` takes it for a character that is seen: fillers of
# Hangul, variation selectors, the blank of Braille, and more.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

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
    if is_seen(plain):
        return plain
    return "".join(
        character if is_seen(character) or character in keep else character.encode("unicode_escape").decode()
        for character in plain
    )


def is_seen(text: str) -> bool:
    """Say whether every character of a text can be seen, an ordinary space included."""
    return text.isprintable() and (text.isascii() or _UNSEEN.search(text) is None)


_is_uuid = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}").fullmatch


def canonical_id(identifier: str) -> str:
    """Spell an id in one way: UUIDs are written in both cases, with and without hyphens."""
    text = identifier.casefold()
    return text.replace("-", "") if _is_uuid(text) else text
