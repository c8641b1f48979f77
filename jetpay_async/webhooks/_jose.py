"""Base64url and JSON objects with exactly one reading each.

Where two readers of the same bytes may disagree, an attacker can exploit the difference; so whatever has more than one
reading is rejected. The functions raise `ValueError` and nothing else.
"""

from __future__ import annotations

import json
import string
from binascii import b2a_base64
from typing import TYPE_CHECKING

import msgspec

from jetpay_async._core import json as api_json

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

_ALPHABET = (string.ascii_letters + string.digits + "-_").encode()
_STANDARD = (string.ascii_letters + string.digits + "+/").encode()
# Every byte that isn't in the alphabet, padding included, becomes a byte that is in neither alphabet.
_TO_STANDARD = bytes(_STANDARD[_ALPHABET.index(byte)] if byte in _ALPHABET else ord("*") for byte in range(256))
_FROM_STANDARD = bytes.maketrans(b"+/", b"-_")
# By the length modulo 4: the padding to add, and the last characters whose spare bits are zero.
_ENDINGS: tuple[tuple[bytes, frozenset[int]], ...] = (
    (b'"', frozenset(_ALPHABET)),
    (b'"', frozenset()),
    (b'=="', frozenset(b"AQgw")),
    (b'="', frozenset(b"AEIMQUYcgkosw048")),
)
_decoder = msgspec.json.Decoder(bytes)


def decode_base64url(text: bytes) -> bytes:
    """Read base64url without padding, spaces or stray bits (RFC 7515, section 2)."""
    padding, last = _ENDINGS[len(text) % 4]
    if text and text[-1] not in last:
        raise ValueError("not canonical base64url")
    # As a JSON text, whose bytes msgspec reads as strictly as the strict mode of `binascii`, at half of its cost.
    return _decoder.decode(b'"' + text.translate(_TO_STANDARD) + padding)


def encode_base64url(data: bytes) -> bytes:
    """Write base64url without padding."""
    return b2a_base64(data, newline=False).translate(_FROM_STANDARD, b"=")


def read_object(data: bytes) -> dict[str, JSONValue]:
    """Read a JSON object in which no member is given twice, at any depth (RFC 7515, section 4)."""
    document = api_json.parse_object(data)
    # Each member that is written has a colon of its own. If there are no more colons than members that were read, none
    # was repeated. Otherwise a text or an inner object may hold some, and a slower reader has to check.
    if data.count(b":") != len(document):
        reject_repetitions(data)
    return document


def reject_repetitions(data: bytes) -> None:
    """Reject a JSON document in which some object has a member twice."""
    try:
        json.loads(data, object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except RecursionError:
        raise ValueError("too deep") from None


def _unique(members: list[tuple[str, object]]) -> None:
    if len({name for name, _ in members}) != len(members):
        raise ValueError("a member is given twice")
