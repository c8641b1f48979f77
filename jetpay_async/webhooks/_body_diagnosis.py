"""Why a body is not the one that was signed: what frameworks and proxies do to bodies, undone by trial.

It is tried only for a token that Jetpay did sign, a moment ago. The work is bounded all the same: whoever saw such a
token can send it again, with any body, until it expires.
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
    from typing import Self

__all__ = ["Cause", "cause_of"]

_MAX_BYTES = 32 * 1024
_MAX_INFLATED = 1024 * 1024


class Cause(StrEnum):
    """What happened to the body, as a stable code and in words."""

    EMPTY = "empty", "The body is empty: it was read before, or it is a stream that nobody has read yet."
    REWRITTEN = (
        "rewritten",
        "The hash matches this JSON as others write it: your framework parsed it and wrote it anew.",
    )
    TRIMMED = "trimmed", "The hash matches but for white space at the end: something trimmed the body, or added to it."
    LINE_ENDS = (
        "line_ends",
        "The hash matches with other line ends: the body went through something that treats it as text.",
    )
    RECODED = "recoded", "The hash matches in another character set: the body was decoded, and encoded differently."
    DECOMPRESSED = "decompressed", "The hash matches the compressed body: a proxy or your framework decompressed it."
    COMPRESSED = "compressed", "The hash matches the decompressed body: something on the way compressed it."
    BASE64 = (
        "base64",
        "The body is base64 of the one that was signed, as AWS Lambda gives it with isBase64Encoded: decode it.",
    )
    OTHER = "other", "The bytes are others than those that were signed, and no usual change of them explains it."

    words: str

    def __new__(cls, code: str, words: str) -> Self:
        cause = str.__new__(cls, code)
        cause._value_ = code
        cause.words = words
        return cause


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
    for written in _written_anew(body):
        yield Cause.REWRITTEN, written
    for compressed in _compressed(body):
        yield Cause.DECOMPRESSED, compressed


def _written_anew(body: bytes) -> Iterator[bytes]:
    """Write the JSON in the ways that the JSON libraries of Python and JavaScript have by default."""
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
    """Compress as zlib does by its usual levels, without a time, on the usual systems."""
    for level in (6, 9, 1):
        yield zlib.compress(body, level)
        packed = gzip.compress(body, level, mtime=0)
        for system in (b"\x03", b"\xff", b"\x00"):
            yield packed[:9] + system + packed[10:]
