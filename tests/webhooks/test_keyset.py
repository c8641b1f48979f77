"""Key sets: which keys are used, which never are, and what isn't a key set."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers, generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from jetpay_async._core import json
from jetpay_async.webhooks import InvalidTokenError, KeySet, KeysUnavailableError, Reason, verify
from jetpay_async.webhooks.keyset import MAX_JWKS_BYTES
from tests.webhooks.signing import BODY, HEADER, KID, NOW, OTHER, PRIVATE, base64url, jwk, jwks, number, token

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

PUBLIC = PRIVATE.public_key()
NUMBERS = PUBLIC.public_numbers()
GOOD = jwk(PUBLIC)
OTHER_GOOD = jwk(OTHER.public_key(), "other")
SHORT = generate_private_key(65537, 1024).public_key()


def short(value: object) -> str:
    """A test's name, without the numbers of a key, which are others in each run."""
    return re.sub(r"[\w=-]{60,}", "...", str(value))


def rejected(document: object) -> KeysUnavailableError:
    with pytest.raises(KeysUnavailableError) as caught:
        KeySet.from_jwks(document)  # type: ignore[arg-type] # on purpose
    assert caught.value.status_hint == 503
    assert caught.value.retryable
    assert caught.value.explain()
    return caught.value


@pytest.mark.parametrize(
    "document",
    [
        jwks(GOOD, OTHER_GOOD),
        jwks(GOOD, OTHER_GOOD).decode(),
        {"keys": [GOOD, OTHER_GOOD]},
        {"keys": [GOOD, GOOD, OTHER_GOOD], "further": 1},
        {"keys": [{**GOOD, "x5c": ["..."], "x5u": "https://somewhere.example/"}, OTHER_GOOD]},
    ],
    ids=["bytes", "text", "parsed", "the same key twice", "further members"],
)
def test_a_key_set(document: bytes | str | dict[str, JSONValue]) -> None:
    """JSON as bytes or text, or what it was parsed into, makes a set of keys by id."""
    keys = KeySet.from_jwks(document)

    assert keys.kids == (KID, "other")
    assert len(keys) == 2
    assert KID in keys
    assert "third" not in keys
    assert [(key.kid, key.public) for key in keys] == [(KID, PUBLIC), ("other", OTHER.public_key())]
    assert keys.fetched_at is None
    assert repr(keys) == "KeySet(_keys=('2026-01', 'other'), fetched_at=None)"


@pytest.mark.parametrize(
    "changes",
    [
        {"use": None},
        {"alg": None},
        {"key_ops": ["verify"]},
        {"key_ops": ["sign", "verify"]},
        {"n": base64url(b"\x00" + NUMBERS.n.to_bytes(256))},
    ],
    ids=["no use", "no alg", "for verifying", "for both", "a leading zero, as Java writes it"],
)
def test_usable(changes: dict[str, JSONValue]) -> None:
    """What a key set may leave out, or say in another way, doesn't make a key unusable."""
    keys = KeySet.from_jwks({"keys": [jwk(PUBLIC, **changes)]})

    assert verify(BODY, token(), keys=keys, now=NOW).iat == NOW


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kty": "oct", "k": number(NUMBERS.n)}, "it isn't an RSA key"),
        ({"kty": "EC", "crv": "P-256"}, "it isn't an RSA key"),
        ({"kty": None}, "it isn't an RSA key"),
        ({"kty": ["RSA"]}, "it isn't an RSA key"),
        ({"use": "enc"}, "it isn't meant for signatures"),
        ({"use": 1}, "it isn't meant for signatures"),
        ({"key_ops": ["encrypt"]}, "it isn't meant for verifying"),
        ({"key_ops": "verify"}, "it isn't meant for verifying"),
        ({"key_ops": []}, "it isn't meant for verifying"),
        ({"alg": "HS256"}, "it is meant for another algorithm"),
        ({"alg": "RS512"}, "it is meant for another algorithm"),
        ({"alg": "RSA-OAEP"}, "it is meant for another algorithm"),
        ({"d": "AQAB"}, "it is a private key that was published, so its signatures prove nothing"),
        ({"n": None}, "it lacks a number"),
        ({"e": None}, "it lacks a number"),
        ({"n": 5}, "it lacks a number"),
        ({"n": ""}, "it has 0 bits, not 2048 to 8192"),
        ({"n": "é"}, "not canonical base64url"),
        ({"n": "\ud800"}, "not canonical base64url"),
        ({"n": urlsafe_b64encode(NUMBERS.n.to_bytes(256)).decode()}, "not canonical base64url"),
        ({"n": number(SHORT.public_numbers().n)}, "it has 1024 bits, not 2048 to 8192"),
        ({"n": number(2**2046 + 1)}, "it has 2047 bits, not 2048 to 8192"),
        ({"n": number(2**8192 + 1)}, "it has 8193 bits, not 2048 to 8192"),
        ({"n": number(NUMBERS.n - 1)}, "its modulus or exponent is not that of an RSA key"),
        ({"e": number(1)}, "its modulus or exponent is not that of an RSA key"),
        ({"e": number(65536)}, "its modulus or exponent is not that of an RSA key"),
        ({"e": number(2**32 + 1)}, "its modulus or exponent is not that of an RSA key"),
        ({"e": ""}, "its modulus or exponent is not that of an RSA key"),
    ],
    ids=short,
)
def test_unusable(changes: dict[str, JSONValue], problem: str) -> None:
    """A key of another kind, purpose or size is skipped, and never used whatever a token says."""
    bad = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    keys = KeySet.from_jwks({"keys": [bad, OTHER_GOOD]})

    assert keys.kids == ("other",)
    with pytest.raises(InvalidTokenError) as caught:
        verify(BODY, token(), keys=keys, now=NOW)
    assert caught.value.reason is Reason.UNUSABLE_KEY
    assert problem in str(caught.value.facts["problem"])
    assert "2026-01" in caught.value.explain()


@pytest.mark.parametrize("entry", [None, 1, "RSA", [], {}, {**GOOD, "kid": None}, {**GOOD, "kid": 5}], ids=short)
def test_entries_that_name_no_key(entry: JSONValue) -> None:
    """An entry that isn't an object, or has no id, is passed over."""
    assert KeySet.from_jwks({"keys": [entry, OTHER_GOOD]}).kids == ("other",)


def test_an_unusable_key_does_not_hide_a_usable_one() -> None:
    """A key for encryption may have the same id as the one for signatures."""
    keys = KeySet.from_jwks({"keys": [{**GOOD, "use": "enc"}, GOOD, {**GOOD, "kty": "oct"}]})

    assert [key.public for key in keys] == [PUBLIC]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", Reason.MALFORMED_KEY_SET),
        (b"<html>", Reason.MALFORMED_KEY_SET),
        (b"\xff\xfe", Reason.MALFORMED_KEY_SET),
        (b"[" * 200_000, Reason.MALFORMED_KEY_SET),
        (b"[]", Reason.MALFORMED_KEY_SET),
        (b"{}", Reason.MALFORMED_KEY_SET),
        (b'{"keys":{}}', Reason.MALFORMED_KEY_SET),
        (b'{"keys":null}', Reason.MALFORMED_KEY_SET),
        (b'{"keys":[],"keys":[]}', Reason.MALFORMED_KEY_SET),
        ("\ud800", Reason.MALFORMED_KEY_SET),
        (None, Reason.MALFORMED_KEY_SET),
        ([], Reason.MALFORMED_KEY_SET),
        (7, Reason.MALFORMED_KEY_SET),
        ({"keys": [GOOD, {**OTHER_GOOD, "kid": KID}]}, Reason.MALFORMED_KEY_SET),
        (b'{"keys":[]}', Reason.NO_USABLE_KEY),
        ({"keys": [jwk(PUBLIC, use="enc"), jwk(SHORT, "short")]}, Reason.NO_USABLE_KEY),
        (b" " * (MAX_JWKS_BYTES + 1), Reason.KEY_SET_TOO_LARGE),
        (" " * (MAX_JWKS_BYTES + 1), Reason.KEY_SET_TOO_LARGE),
    ],
    ids=lambda value: str(value)[:30],
)
def test_no_key_set(document: object, reason: Reason) -> None:
    """What isn't a key set, or has no usable key, is an error that asks the sender to come again."""
    error = rejected(document)

    assert error.reason is reason
    assert error.__context__ is None


def test_no_key_in_an_error() -> None:
    """The error about two keys of one id shows neither of them."""
    error = rejected({"keys": [GOOD, {**OTHER_GOOD, "kid": KID}]})

    assert str(error.facts) == """{'problem': "two different keys have the id '2026-01'"}"""


def test_an_unknown_key() -> None:
    """A key id that isn't in the set is named in the error, cut short, and with the age of the set."""
    keys = KeySet.from_jwks(jwks(GOOD), fetched_at=NOW)

    with pytest.raises(InvalidTokenError) as caught:
        verify(BODY, token({**HEADER, "kid": "x" * 1000}), keys=keys, now=NOW)

    assert caught.value.facts == {"kid": "x" * 64, "fetched_at": NOW}
    assert "2027-01-15 08:00:00 UTC" in caught.value.explain()


def test_numbers_that_openssl_would_choke_on() -> None:
    """A modulus that is no product of two primes makes every signature bad, and nothing else."""
    keys = KeySet.from_jwks({"keys": [jwk(PUBLIC, n=number(2**2048 - 1))]})

    with pytest.raises(InvalidTokenError) as caught:
        verify(BODY, token(), keys=keys, now=NOW)

    assert caught.value.reason is Reason.BAD_SIGNATURE
    assert RSAPublicNumbers(65537, 2**2048 - 1).public_key().key_size == 2048


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.sampled_from(list(GOOD.values())),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["keys", *GOOD, "key_ops", "d", "x"]), inner, max_size=8)
    ),
    max_leaves=20,
)


@settings(max_examples=30)
@given(_JSON | st.lists(_JSON, max_size=3).map(lambda keys: {"keys": keys}))
def test_any_document(document: JSONValue) -> None:
    """Any JSON is a key set with usable keys, or ends in a KeysUnavailableError; parsed or not makes no difference."""
    results: list[tuple[str, ...] | Reason] = []
    for form in (document, json.dump(document)):
        try:
            results.append(KeySet.from_jwks(form).kids)  # type: ignore[arg-type] # any JSON
        except KeysUnavailableError as error:
            results.append(error.reason)

    if not isinstance(document, str):  # a parsed text is read as the text of a document
        assert results[0] == results[1]
    assert results[0]
