"""Base64url and JSON with one reading each."""

from __future__ import annotations

import itertools
from base64 import b64decode, urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetpay_async.webhooks._jose import decode_base64url, encode_base64url, read_object


@given(st.binary(max_size=200))
def test_round_trip(data: bytes) -> None:
    """What is written without padding is read back, and is what the standard library writes."""
    text = encode_base64url(data)

    assert text == urlsafe_b64encode(data).rstrip(b"=")
    assert decode_base64url(text) == data


@pytest.mark.parametrize("length", [1, 2, 3])
def test_only_the_canonical_text_is_read(length: int) -> None:
    """Of all short texts, exactly those are read that encoding their own reading gives again."""
    alphabet = b'AQgwBZz09-_+/=. \n\x00\xff"\\'

    for letters in itertools.product(alphabet, repeat=length):
        text = bytes(letters)
        try:
            data = decode_base64url(text)
        except ValueError:
            standard = text.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-length % 4)
            assert not set(text) <= set(b"AQgwBZz09-_") or length == 1 or encode_base64url(b64decode(standard)) != text
        else:
            assert encode_base64url(data) == text


@given(st.binary(max_size=40))
def test_other_bytes_end_in_a_value_error(text: bytes) -> None:
    """Any bytes are read, and then are canonical, or end in a ValueError."""
    try:
        data = decode_base64url(text)
    except ValueError:
        return
    assert encode_base64url(data) == text


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":[{"b":1,"b":2}],"c":":"}',
        b'{"a":1,"b":":","a":2}',
        b"[]",
        b"1",
        b"",
        b"\xff",
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"a":NaN}',
        b'{"a":1}x',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1e9999999999999999999}',
        b'{"a":' + b"[" * 100_000,
    ],
    ids=lambda text: text[:24],
)
def test_objects_with_two_readings_are_rejected(text: bytes) -> None:
    """A repeated member at any depth, and what isn't one JSON object, is a ValueError."""
    with pytest.raises(ValueError, match=r"\w"):
        read_object(text)


def _readable(depth: int) -> bool:
    try:
        read_object(b'{"a":' * depth + b"1" + b"}" * depth)
    except ValueError:
        return False
    return True


def test_too_deep() -> None:
    """A document too deep for one of the two readers is a ValueError, at every depth around the limits."""
    readable, unreadable = 1, 1_000_000
    while unreadable - readable > 1:
        middle = (readable + unreadable) // 2
        readable, unreadable = (middle, unreadable) if _readable(middle) else (readable, middle)

    assert readable > 100
    assert not any(_readable(depth) for depth in range(unreadable, unreadable + 30))


@pytest.mark.parametrize("text", [b"{}", b'{"a":":"}', b'{"a":{"b":1},"b":[{"b":2},{"b":3}]}', b' {"a" : 1.50} '])
def test_objects_with_one_reading(text: bytes) -> None:
    """Colons in texts and members of the same name in different objects are no repetitions."""
    assert isinstance(read_object(text), dict)
