"""The guide's Python examples, one after the other: URL, TOKEN and MERCHANT are from outside."""

from __future__ import annotations

import os
from typing import Any

import requests

URL, TOKEN, MERCHANT = (os.environ[name] for name in ("URL", "TOKEN", "MERCHANT"))
headers = {"Authorization": f"Bearer {TOKEN}"}


def read(response: requests.Response) -> Any:
    response.raise_for_status()
    return response.json()


webhook = read(
    requests.post(
        f"{URL}/webhooks/", headers=headers, json={"callback_url": "http://127.0.0.1:9/webhooks/jetpay"}, timeout=5
    )
)
contact = read(
    requests.put(
        f"{URL}/contact",
        headers=headers,
        json={"email": "ann@example.com", "name": "Ann Payer", "tags": [], "language": "en"},
        timeout=5,
    )
)
contact_id = contact["identifier"]

form = read(requests.post(f"{URL}/contact/{contact_id}/creditcards/url", headers=headers, timeout=5))
requests.post(form["url"], data={"card_number": "4111111111111111"}, timeout=5)  # the payer, in the iframe

card = f"{URL}/contact/{contact_id}/creditcards/{form['credit_card_id']}"
payment = {"amount": 100.50, "to_bank_account_id": MERCHANT, "statement": "Test statement"}
debit_id = read(requests.post(f"{card}/preauthorize", headers=headers, json=payment, timeout=5))["debit_id"]
print("capture", read(requests.post(f"{URL}/debit/{debit_id}/capture", headers=headers, timeout=5))["state"])
print("status", read(requests.get(f"{URL}/transaction/{debit_id}/status", headers=headers, timeout=5))["state"])
charged = read(requests.post(f"{card}/charge", headers=headers, json={**payment, "amount": 12.50}, timeout=5))
print("charge", charged["transaction_state"])

other = read(requests.post(f"{card}/preauthorize", headers=headers, json={**payment, "amount": 5}, timeout=5))
cancelled = read(requests.delete(f"{URL}/transaction/{other['debit_id']}", headers=headers, timeout=5))
print("cancel", "true" if cancelled["ok"] else "false")

account = read(
    requests.put(
        f"{URL}/contact/bank_account",
        headers=headers,
        json={
            "institution": "A Bank",
            "title": "Savings",
            "holder_name": "Ann Payer",
            "contact_id": contact_id,
            "account_type": "chequing",
            "transit_number": "00001",
            "institution_number": "001",
            "account_number": "1234567",
            "holder_address": "1 Road",
            "holder_address_postal_code": "A1A1A1",
            "holder_address_city": "Town",
            "holder_address_country": "CA",
            "holder_email": "ann@example.com",
        },
        timeout=5,
    )
)

rent = {"statement": "Rent", "to_bank_account": MERCHANT}
bob = {"contact_email": "bob@example.com", "contact_name": "Bob"}
link = read(
    requests.put(f"{URL}/debit", headers=headers, json={"amount": 10000, "note": "July", **rent, **bob}, timeout=5)
)["link"]
requests.post(link, timeout=5)  # Bob follows it
read(requests.put(f"{URL}/debit", headers=headers, json={"amount": 80, **rent, "contact_id": contact_id}, timeout=5))
refund = {"statement": "Refund", "from_bank_account": MERCHANT, "contact_id": contact_id}
read(requests.put(f"{URL}/credit", headers=headers, json={"amount": 10000, **refund}, timeout=5))
sent = {"amount": 5, "note": "July", **refund, "to_bank_account": account["identifier"]}
read(requests.put(f"{URL}/credit", headers=headers, json=sent, timeout=5))

one = f"{URL}/webhooks/{webhook['identifier']}"
print("webhook", len(read(requests.get(f"{URL}/webhooks/", headers=headers, timeout=5))))
print("webhook", read(requests.get(one, headers=headers, timeout=5))["callback_url"])
changed = read(requests.patch(one, headers=headers, json={"max_batch_size": 50}, timeout=5))
print("webhook", changed["max_batch_size"])
replayed = read(requests.patch(one, headers=headers, json={"replay_from_event_id": 1}, timeout=5))
print("webhook", replayed["max_wait_seconds"])
read(requests.delete(one, headers=headers, timeout=5))
print("keys", len(read(requests.get(f"{URL}/.well-known/jwks.json", timeout=5))["keys"]))
