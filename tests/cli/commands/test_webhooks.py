"""``jetpay webhooks explain``."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from jetpay_async.sandbox import Sandbox
from jetpay_async.webhooks import sign
from tests.cli.conftest import CommandResult

Jetpay = Callable[..., CommandResult]

BODY = (
    b'{"webhookId": 7, "events": [{"id": 1, "createdAt": "2026-01-22T10:15:30.123456Z",'
    b' "type": "transactions.debits.created", "data": {"state": "paid", "transactionId": "41fc05d5"}}]}'
)
NOW = 1_769_076_930.0


@attrs.frozen
class Recorded:
    """A delivery as somebody saved it."""

    folder: Path
    authorization: str

    def arguments(self, **changes: str) -> list[str]:
        options = {
            "body": str(self.folder / "body"),
            "authorization": f"@{self.folder / 'authorization'}",
            "jwks": str(self.folder / "jwks.json"),
            "now": str(NOW),
            **changes,
        }
        return ["webhooks", "explain", *(f"--{name}={value}" for name, value in options.items())]


@pytest.fixture
def recorded(tmp_path: Path, sandbox: Sandbox) -> Recorded:
    key = sandbox._keys.current
    authorization = sign(BODY, key.private_key, kid=key.kid, now=NOW)
    (tmp_path / "body").write_bytes(BODY)
    (tmp_path / "authorization").write_text(f"{authorization}\n")
    (tmp_path / "jwks.json").write_text(json.dumps(sandbox.jwks))
    return Recorded(tmp_path, authorization)


@pytest.fixture
def _in_canada(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST5")
        time.tzset()
        yield
    time.tzset()


def test_an_authentic_delivery(jetpay: Jetpay, recorded: Recorded) -> None:
    """A delivery that verifies is reported as authentic, with status 0."""
    run = jetpay(*recorded.arguments())

    assert (run.status, run.err) == (0, "")
    assert run.out.startswith("The delivery is authentic")


def test_as_json(jetpay: Jetpay, recorded: Recorded) -> None:
    """--json shows whether it is authentic, the reason's stable code, and the explanation."""
    good = json.loads(jetpay(*recorded.arguments(), "--json").out)
    bad = json.loads(jetpay(*recorded.arguments(now=str(NOW + 500)), "--json").out)

    assert (good["authentic"], good["reason"]) == (True, None)
    assert (bad["authentic"], bad["reason"]) == (False, "expired")
    assert bad["explanation"]


def test_the_value_of_the_header_itself(jetpay: Jetpay, recorded: Recorded) -> None:
    """The Authorization value may be given as it is."""
    assert jetpay(*recorded.arguments(authorization=recorded.authorization)).status == 0


def test_the_body_from_stdin(jetpay: Jetpay, recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash reads the body's bytes from stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(BODY)))

    assert jetpay(*recorded.arguments(body="-")).status == 0


def test_keys_from_a_url(jetpay: Jetpay, recorded: Recorded, sandbox: Sandbox) -> None:
    """The keys may be fetched from where they are published."""
    assert jetpay(*recorded.arguments(jwks=sandbox.url)).status == 0
    assert jetpay(*recorded.arguments(jwks=f"{sandbox.url}/.well-known/jwks.json")).status == 0
    assert sandbox.requests("jwks") == 2


@pytest.mark.parametrize(
    ("now", "status"),
    [
        pytest.param("2026-01-22T10:15:30Z", 0, id="UTC"),
        pytest.param("2026-01-22T10:15:30", 0, id="naive is UTC"),
        pytest.param("2026-01-22T11:15:30+01:00", 0, id="offset"),
        pytest.param("1769076935.5", 0, id="seconds"),
        pytest.param("2026-01-22T10:25:30Z", 1, id="too late"),
        pytest.param("2026-01-22T10:05:30Z", 1, id="too early"),
        pytest.param("yesterday", 2, id="no time"),
        pytest.param("nan", 2, id="nan"),
        pytest.param("1e99", 2, id="beyond all times"),
    ],
)
@pytest.mark.usefixtures("_in_canada")
def test_the_moment_of_judgement(jetpay: Jetpay, recorded: Recorded, now: str, status: int) -> None:
    """--now takes seconds or ISO 8601, wherever the machine stands, and decides over stale or not."""
    assert jetpay(*recorded.arguments(now=now)).status == status


def test_the_present_is_the_default(jetpay: Jetpay, recorded: Recorded, sandbox: Sandbox) -> None:
    """Without --now a delivery of this moment verifies, and an old one does not."""
    key = sandbox._keys.current
    fresh = sign(BODY, key.private_key, kid=key.kid, now=time.time())

    def without_now(authorization: str) -> list[str]:
        return [each for each in recorded.arguments(authorization=authorization) if not each.startswith("--now")]

    assert jetpay(*without_now(fresh)).status == 0
    assert jetpay(*without_now(recorded.authorization)).status == 1


def test_neither_token_nor_body_is_shown(jetpay: Jetpay, recorded: Recorded) -> None:
    """Whatever is wrong, no part of the token or the body gets out."""
    (recorded.folder / "body").write_bytes(json.dumps(json.loads(BODY), separators=(",", ":")).encode())

    run = jetpay(*recorded.arguments())

    _, payload, signature = recorded.authorization.split(".")
    assert run.status == 1
    assert "another body" in run.out
    for secret in (payload, signature, "41fc05d5"):
        assert secret not in run.out + run.err


def test_a_signed_body_that_is_no_delivery(jetpay: Jetpay, recorded: Recorded, sandbox: Sandbox) -> None:
    """A good signature is not enough: what was signed must be a delivery."""
    key = sandbox._keys.current
    (recorded.folder / "body").write_bytes(b"[]")

    run = jetpay(*recorded.arguments(authorization=sign(b"[]", key.private_key, kid=key.kid, now=NOW)))

    assert run.status == 1


@pytest.mark.parametrize("option", ["body", "authorization", "jwks"])
def test_a_file_that_is_not_there(jetpay: Jetpay, recorded: Recorded, option: str) -> None:
    """A file that can't be read is named together with its option, with status 2."""
    path = str(recorded.folder / "nowhere")
    value = f"@{path}" if option == "authorization" else path

    run = jetpay(*recorded.arguments(**{option: value}))

    assert run == CommandResult(2, "", f"jetpay: argument --{option}: {path}: No such file or directory\n")


def test_no_keys_to_judge_by(jetpay: Jetpay, recorded: Recorded) -> None:
    """Without keys nothing is judged: status 3, and why there are none."""
    (recorded.folder / "jwks.json").write_text("{}")

    from_file = jetpay(*recorded.arguments())
    from_url = jetpay(*recorded.arguments(jwks="http://127.0.0.1:1/keys"))

    assert (from_file.status, from_file.out) == (3, "")
    assert from_file.err.startswith("jetpay: The document is not a usable JWK Set")
    assert (from_url.status, from_url.out) == (3, "")
    assert "http://127.0.0.1:1/keys" in from_url.err


def test_a_url_that_is_no_good(jetpay: Jetpay, recorded: Recorded) -> None:
    """Keys that would travel unencrypted are rejected, with status 2."""
    run = jetpay(*recorded.arguments(jwks="http://example.com/keys"))

    assert run.status == 2
    assert run.err.startswith("jetpay: url: ")
