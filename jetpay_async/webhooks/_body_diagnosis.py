"""Find out why a body is not the one that was signed, by undoing what frameworks and proxies do to bodies.

This runs only for a token that Jetpay signed recently. The work is bounded all the same: whoever has seen such a token
can send it again, with any body, until it expires.
"""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64decode
from contextlib import suppress
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cause", "cause_of"]

_MAX_BYTES = 32 * 1024
_MAX_INFLATED = 1024 * 1024


class Cause(StrEnum):
    """What was done to the body; `_messages` has the words."""

    EMPTY = "empty"
    REWRITTEN = "rewritten"
    TRIMMED = "trimmed"
    LINE_ENDS = "line_ends"
    RECODED = "recoded"
    DECOMPRESSED = "decompressed"
    COMPRESSED = "compressed"
    BASE64 = "base64"
    OTHER = "other"


def cause_of(body: bytes, digest: bytes) -> Cause:
    """Find out what was done to the body.

    Args:
        body: The bytes that were received.
        digest: SHA-256 of the bytes that were signed.

    Returns:
        The first change that, undone, gives the signed bytes; `Cause.OTHER` if none does, or it is too large to try.
    """
    if not body:
        return Cause.EMPTY
    if len(body) > _MAX_BYTES:
        return Cause.OTHER
    return next((cause for cause, original in _originals(body) if sha256(original).digest() == digest), Cause.OTHER)


def _originals(body: bytes) -> Iterator[tuple[Cause, bytes]]:
    for trimmed in (body.rstrip(), body + b"\n", body + b"\r\n"):
        yield Cause.TRIMMED, trimmed
    unix = body.replace(b"\r\n", b"\n")
    yield Cause.LINE_ENDS, unix
    yield Cause.LINE_ENDS, unix.replace(b"\n", b"\r\n")
    for source, target in (("utf-8", "latin-1"), ("latin-1", "utf-8"), ("utf-16", "utf-8")):
        with suppress(ValueError):
            yield Cause.RECODED, body.decode(source).encode(target)
    with suppress(ValueError):
        yield Cause.BASE64, b64decode(body, validate=True)
    with suppress(zlib.error):
        yield Cause.COMPRESSED, zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(body, _MAX_INFLATED)
    for written in _rewritten(body):
        yield Cause.REWRITTEN, written
    for compressed in _compressed(body):
        yield Cause.DECOMPRESSED, compressed


def _rewritten(body: bytes) -> Iterator[bytes]:
    """Write the JSON in the default notations of the JSON libraries of Python and JavaScript."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(document, str):
        yield document.encode(errors="surrogatepass")
    for separators in ((",", ":"), (", ", ": ")):
        for ensure_ascii in (False, True):
            text = json.dumps(document, separators=separators, ensure_ascii=ensure_ascii)
            yield text.encode(errors="surrogatepass")


def _compressed(body: bytes) -> Iterator[bytes]:
    """Compress with the usual levels of zlib, without a time stamp, as the usual systems do."""
    for level in (6, 9, 1):
        yield zlib.compress(body, level)
        packed = gzip.compress(body, level, mtime=0)
        for system in (b"\x03", b"\xff", b"\x00"):
            yield packed[:9] + system + packed[10:]
