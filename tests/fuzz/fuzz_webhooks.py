"""Fuzz the readers of webhooks, guided by coverage: ``python tests/fuzz/fuzz_webhooks.py -max_total_time=60``.

It needs atheris, and stops at the first input that ends in anything but a value or a `WebhookError`. Signatures are
taken out of the way by signing the input, so that what lies behind them is reached too.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["jetpay_async"]):
    from jetpay_async._core import json
    from jetpay_async.webhooks import KeySet, WebhookError, decode, explain, verify
    from tests.webhooks.signing import BODY, HEADER, KEYS, NOW, PRIVATE, claims_for, jwk, jwks, token

SEEDS = [
    b"\x00" + token().encode(),
    b"\x01" + token().removeprefix("Bearer ").encode(),
    b"\x02" + json.dump(HEADER),
    b"\x03" + json.dump(claims_for()),
    (
        b'\x04{"webhookId":123,"events":[{"id":45678,"createdAt":"2026-01-22T10:15:30.123456Z",'
        b'"type":"transactions.debits.created","data":{"state":"failed","transactionId":"t","failReason":"r","n":1.50}}]}'
    ),
    b"\x05" + jwks(jwk(PRIVATE.public_key())),
]


def test_one_input(data: bytes) -> None:
    """Give one input to each reader in turn; the first byte chooses."""
    choice, rest = data[:1] or b"\x00", data[1:]
    try:
        match choice[0] % 6:
            case 0:
                verify(BODY, rest, keys=KEYS, now=NOW)
            case 1:
                verify(BODY, b"Bearer " + rest, keys=KEYS, now=NOW)
            case 2:
                verify(BODY, token(rest), keys=KEYS, now=NOW)
            case 3:
                verify(BODY, token(HEADER, rest), keys=KEYS, now=NOW)
            case 4:
                explain(rest, token(HEADER, claims_for(BODY)), keys=KEYS, now=NOW)
                decode(rest)
            case _:
                KeySet.from_jwks(rest)
    except WebhookError as error:
        error.explain()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], test_one_input)
        atheris.Fuzz()
