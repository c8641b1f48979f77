"""The Jetpay API in miniature, over a real socket, with faults on request. For tests, demos and benchmarks.

::

    async with Sandbox(seed=7) as sandbox:
        payer = sandbox.add_payer()
        sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture"))
        ...  # any client, with sandbox.url, sandbox.api_token, sandbox.merchant_account_id and the payer's two ids
        assert sandbox.captured_twice == ()

It runs in the caller's event loop, or on its own as ``jetpay sandbox``. It keeps no files, listens on loopback unless
told otherwise, and delivers webhooks to loopback only unless told otherwise.

What the vendor's guide says is followed to the letter. Where the guide is silent, the choice made here is marked
[inferred], [the sandbox's own] or the like beside it, so that nobody takes it for the vendor's word.

Cards
=====

The number given to `Sandbox.add_credit_card`, `Sandbox.add_payer` or the hosted card form decides what happens. The
same table is `CARDS`; the numbers are the sandbox's own.

================  ========================================================================================
Card number       What happens
================  ========================================================================================
4111111111111111  everything succeeds, as with any number that is not in this table
4000000000000002  declined: preauthorize and charge answer 402, no debit is made
4000000000000010  insufficient funds: preauthorize and charge answer 402, no debit is made
4000000000000028  expired: preauthorize and charge answer 402, no debit is made
4000000000000036  the capture fails: it answers 200 with failed; the status tells account_frozen, pull
4000000000000044  the capture fails: it answers 200 with failed; the status tells insufficient_funds, pull
4000000000000051  a slow bank: the capture answers processing; paid follows
4000000000000069  a slow bank that refuses: the capture answers processing; failed follows (account_frozen, pull)
4000000000000077  the capture is paid, and completed follows
4000000000000085  the capture is paid, but the payout fails: failed follows (account_frozen, push)
4000000000000093  a state that no published page names: the capture answers settling; paid follows
================  ========================================================================================

Calls
=====

The names, for `Fault.route` and `Sandbox.requests`, and the `TokenScope` that each asks of the token:

============  ==============  ====================================================================
Name          TokenScope           Call
============  ==============  ====================================================================
preauthorize  card_payments   ``POST /contact/{contact_id}/creditcards/{credit_card_id}/preauthorize``
charge        card_payments   ``POST /contact/{contact_id}/creditcards/{credit_card_id}/charge``
capture       captures        ``POST /debit/{debit_id}/capture``
status        transactions    ``GET /transaction/{identifier}/status``
cancel        cancellations   ``DELETE /transaction/{identifier}``
contact       contacts        ``PUT /contact``
card_url      contacts        ``POST /contact/{contact_id}/creditcards/url``
bank_account  bank_accounts   ``PUT /contact/bank_account``
debit         payments        ``PUT /debit``
credit        payments        ``PUT /credit``
webhooks      webhooks        ``GET, POST /webhooks/``, ``GET, PATCH, DELETE /webhooks/{identifier}``
jwks          none            ``GET /.well-known/jwks.json``
card_form     none            the page that ``card_url`` leads to
payment       none            the page that the ``link`` of a debit or credit leads to
============  ==============  ====================================================================

The guide's examples work as they stand, but for the host and the token: its contact ``contact_123`` with the card
``cc_456`` exists from the start, and a merchant's bank account ``bank_789`` [the sandbox's own].

A request is worked on whole, also when the client has gone. `Fault` strikes before the work or after it, and at most
one fault strikes a request.

Webhooks
========

Every change of state makes an event, with ids that count from 1. All of them carry the two type names that the vendor
prints, ``transactions.debits.created`` and ``transactions.credits.created``, whatever the state [inferred];
``data.state`` tells what happened, and a failed one has ``failReason`` and ``failDirection`` [inferred]. A card saved
through the hosted form makes ``credit_cards.tokenization.created`` [inferred].

Deliveries are signed with `Sandbox.jwks`, batched, answered within 15 s or retried. A ``callback_api_key`` travels in
the header ``X-Callback-Api-Key``, a name of the sandbox's own, since the vendor publishes none. `DeliveryPolicy`
shortens the waits, `Sandbox.drain_deliveries` ends them, `DeliveryFault` spoils deliveries.
"""

from jetpay_async.sandbox._api import TokenScope
from jetpay_async.sandbox._cards import APPROVED, CARDS, CardBehaviour
from jetpay_async.sandbox._deliveries import CALLBACK_API_KEY_HEADER, DeliveryAttempt, DeliveryPolicy
from jetpay_async.sandbox._faults import ROUTES, DeliveryFault, DeliveryFaultKind, Fault, FaultKind, Faults
from jetpay_async.sandbox._sandbox import Payer, Sandbox
from jetpay_async.sandbox._serve import serve
from jetpay_async.sandbox._state import Event, Transaction
from jetpay_async.sandbox._webhooks import WebhookState

__all__ = [
    "APPROVED",
    "CALLBACK_API_KEY_HEADER",
    "CARDS",
    "ROUTES",
    "CardBehaviour",
    "DeliveryAttempt",
    "DeliveryFault",
    "DeliveryFaultKind",
    "DeliveryPolicy",
    "Event",
    "Fault",
    "FaultKind",
    "Faults",
    "Payer",
    "Sandbox",
    "TokenScope",
    "Transaction",
    "WebhookState",
    "serve",
]
