"""What the page and the log show of paths and URLs: no token, no card number, no secret of a callback. Pure."""

from __future__ import annotations

import re

from yarl import URL

from jetpay_async._core.endpoints import SANDBOX_TOKEN_PREFIX

__all__ = ["redacted_path", "redacted_url"]

# A whole segment: a run of digits inside an identifier is no card number.
_SECRET = re.compile(rf"{SANDBOX_TOKEN_PREFIX}[^/]+|(?<![^/])[0-9](?:[ -]?[0-9]){{11,18}}(?![^/])")


def redacted_path(path: str) -> str:
    """Return a path in which tokens and card numbers end after their beginning."""
    return _SECRET.sub(_beginning, path)


def redacted_url(url: str) -> str:
    """Return a URL without user, password and query, where a callback's secrets are."""
    parts = URL(url)
    shown = parts.with_user(None).with_query(None).with_fragment(None)
    return f"{shown}?…" if parts.query_string else str(shown)


def _beginning(match: re.Match[str]) -> str:
    shown = match[0].removeprefix(SANDBOX_TOKEN_PREFIX)
    return f"{match[0].removesuffix(shown)}{shown[:4]}…"
