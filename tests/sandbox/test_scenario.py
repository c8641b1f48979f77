"""What a sandbox starts with, from TOML."""

from __future__ import annotations

import pytest

from jetpay_async.sandbox import DeliveryFault, DeliveryFaultKind, Fault, FaultKind, Sandbox, apply_scenario

SCENARIO = """
[[payers]]
card_number = "4000000000000051"
contact_id = "contact_slow"
credit_card_id = "card_slow"
name = "Slow Payer"

[[payers]]

[[faults]]
kind = "error_after"
route = "capture"
status = 503
probability = 0.05

[[faults]]
kind = "wrong_shape_after"
document = { surprise = [1, 2] }

[[delivery_faults]]
kind = "late"
seconds = 100

[[webhooks]]
callback_url = "http://127.0.0.1:9/hook"
callback_api_key = "key"
max_batch_size = 1
max_wait_seconds = 5
"""


def test_what_it_lists_is_added() -> None:
    """Payers with their ids, faults of both kinds, and webhooks are there."""
    sandbox = Sandbox()
    apply_scenario(sandbox, SCENARIO)

    account = sandbox._account
    assert account.contacts["contact_slow"].name == "Slow Payer"
    assert account.credit_cards["card_slow"].behavior.number == "4000000000000051"
    assert len(account.contacts) == 3
    assert [each.fault for each in sandbox.faults.active] == [
        Fault(kind=FaultKind.ERROR_AFTER, route="capture", status=503, probability=0.05),
        Fault(kind=FaultKind.WRONG_SHAPE_AFTER, document={"surprise": [1, 2]}),
    ]
    assert [each.fault for each in sandbox.delivery_faults.active] == [
        DeliveryFault(kind=DeliveryFaultKind.LATE, seconds=100)
    ]
    (webhook,) = sandbox._webhooks
    assert (webhook.callback_api_key, webhook.max_batch_size, webhook.max_wait_seconds) == ("key", 1, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("payers", "Expected '='"),
        ("[[cards]]", "cards: is not one of payers, faults, delivery_faults, webhooks"),
        ("[payers]\na = 1", r"payers: must be a list, written \[\[payers\]\]"),
        ("payers = [1]", "payers, entry 1: must be an object"),
        ("[[payers]]\n[[payers]]\nage = 3", "payers, entry 2: age: is not one of card_number, contact_id"),
        ("[[faults]]", "faults, entry 1: kind: is missing"),
        ("[[faults]]\nkind = 'lose_all'", "faults, entry 1: kind: Invalid enum value 'lose_all'"),
        ("[[faults]]\nkind = 'slow_after'\nseconds = 'x'", "faults, entry 1: seconds: Expected `float`, got `str`"),
        (
            "[[faults]]\nkind = 'slow_after'\nseconds = -1",
            "faults, entry 1: seconds: must be a number from 0 to 31622400",
        ),
        ("[[faults]]\nkind = 'error_after'\nstatus = 99", "faults, entry 1: 'status' must be >= 200: 99"),
        ("[[faults]]\nkind = 'redirect_after'\nlocation = 'a b'", "faults, entry 1: 'location' must match regex"),
        ("[[delivery_faults]]\nkind = 'late'\nkeep_old = 1", "delivery_faults, entry 1: keep_old: Expected `bool`"),
        ("[[webhooks]]", "webhooks, entry 1: callback_url: is missing"),
        ("[[webhooks]]\ncallback_url = 'http://elsewhere.test/'", "delivers to this machine only"),
        ("[[payers]]\ncard_number = '400000000002'\n[[payers]]\ncard_number = '4x'", "payers, entry 2: card_number: "),
        (
            "[[faults]]\nkind = 'slow_after'\nseconds = inf",
            "faults, entry 1: seconds: must be a number from 0 to 31622400",
        ),
        (
            "[[faults]]\nkind = 'slow_after'\nprobability = nan",
            "faults, entry 1: probability: must be a number from 0 to 1",
        ),
        (
            "[[delivery_faults]]\nkind = 'clock_skew'\nseconds = -1e9",
            "entry 1: seconds: must be a number from -31622400",
        ),
        (
            "[[faults]]\nkind = 'rate_limit'\nretry_after = 2030-01-01T00:00:00",
            "faults, entry 1: retry_after: a date must have an offset",
        ),
        (
            "[[webhooks]]\ncallback_url = 'http://127.0.0.1/'\nmax_batch_size = 0",
            "max_batch_size: must be a number from 1 to 100",
        ),
    ],
)
def test_what_makes_no_sense_is_named(text: str, message: str) -> None:
    """An entry that is not valid is a ValueError that names it."""
    with pytest.raises(ValueError, match=message):
        apply_scenario(Sandbox(), text)
