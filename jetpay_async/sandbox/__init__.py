"""The Jetpay API in miniature, over a real socket, with faults on request. For tests, demos and benchmarks.

::

    async with Sandbox(seed=7) as sandbox:
        payer = sandbox.add_payer()
        sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture"))
        ...  # any client, with sandbox.url, sandbox.api_token, sandbox.merchant_account_id and the payer's two ids
        assert sandbox.captured_twice == ()

It runs in the caller's event loop, or on its own as ``jetpay sandbox`` (see ``docs/sandbox.md``). It keeps no files,
listens on loopback, answers to the names of loopback, and delivers webhooks to loopback, unless told otherwise.

It follows the vendor's guide to the letter. Where the guide is silent, the choice made here is marked [inferred], [the
sandbox's own] or the like, so that it isn't taken for the vendor's statement.

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
4000000000000036  the capture fails: the reply is a 200 with failed; the status reports account_frozen, pull
4000000000000044  the capture fails: the reply is a 200 with failed; the status reports insufficient_funds, pull
4000000000000051  a slow bank: the capture answers processing; paid follows
4000000000000069  a slow bank that rejects it: the capture answers processing; failed follows (account_frozen, pull)
4000000000000077  the capture is paid, and completed follows
4000000000000085  the capture is paid, but the payout fails: failed follows (account_frozen, push)
4000000000000093  a state that no published page names: the capture answers clearing; paid follows
4000000000000101  the hosted form does not save it: the event of the tokenization has failed (card_not_supported)
================  ========================================================================================

Calls
=====

The names, for `Fault.route` and `Sandbox.requests`, and the `TokenScope` that each requires of the token:

============  ==============  ====================================================================
Name          Scope           Call
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

A request is processed whole, also when the client has disconnected.

Faults
======

A `Fault` is injected before the work is done or after it, at most one into a request. `FaultKind` describes each. Those
that matter most where money is concerned::

    Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture")            # the money was taken, the reply is lost
    Fault(kind=FaultKind.PROCESS_LATE, route="capture", seconds=6)     # the reply is lost, the money is taken 6 s later
    Fault(kind=FaultKind.PROCESS_LATE, route="capture", seconds=6, status=504, body="html")     # the same after a 504
    Fault(kind=FaultKind.RETRANSMIT, route="capture", seconds=5)       # reset, and the money is taken 5 s later
    Fault(kind=FaultKind.REPORT_STATE_AFTER, route="capture", state="processing")      # captured, says "processing"
    Fault(kind=FaultKind.REPORT_STATE_AFTER, route="status", state="preauthorized")    # a state that goes back, once
    Fault(kind=FaultKind.STALE_STATUS, seconds=3)                      # reads lag by 3 s
    Fault(kind=FaultKind.CACHED_REPLY, route="status")                 # reads are answered from a cache
    Fault(kind=FaultKind.ERROR_AFTER, route="capture", status=409)     # 408, 409, 425, 499 as JSON, although it is done

Webhooks
========

Every change of state makes an event, with ids that count from 1. All of them carry the two type names that the vendor
prints, ``transactions.debits.created`` and ``transactions.credits.created``, whatever the state [inferred];
``data.state`` says what happened, and a failed one has ``failReason`` and ``failDirection`` [inferred]. A card saved
through the hosted form makes ``credit_cards.tokenization.created`` [inferred].

Deliveries are signed with `Sandbox.jwks`, batched, answered within 15 s or retried. A ``callback_api_key`` travels in
the header ``X-Callback-Api-Key``, a name of the sandbox's own, since the vendor publishes none. `DeliveryPolicy`
shortens the delays, `Sandbox.drain_deliveries` skips them, `DeliveryFault` damages deliveries.
"""

from jetpay_async.sandbox._api import TokenScope
from jetpay_async.sandbox._cards import APPROVED, CARDS, CardBehavior
from jetpay_async.sandbox._deliveries import CALLBACK_API_KEY_HEADER, DeliveryAttempt, DeliveryPolicy
from jetpay_async.sandbox._faults import ROUTES, ActiveFault, DeliveryFault, DeliveryFaultKind, Fault, FaultKind, Faults
from jetpay_async.sandbox._sandbox import Sandbox, SandboxPayer
from jetpay_async.sandbox._scenario import apply_scenario
from jetpay_async.sandbox._serve import serve
from jetpay_async.sandbox._state import SandboxEvent, Transaction
from jetpay_async.sandbox._webhooks import WebhookState

__all__ = [
    "APPROVED",
    "CALLBACK_API_KEY_HEADER",
    "CARDS",
    "ROUTES",
    "ActiveFault",
    "CardBehavior",
    "DeliveryAttempt",
    "DeliveryFault",
    "DeliveryFaultKind",
    "DeliveryPolicy",
    "Fault",
    "FaultKind",
    "Faults",
    "Sandbox",
    "SandboxEvent",
    "SandboxPayer",
    "TokenScope",
    "Transaction",
    "WebhookState",
    "apply_scenario",
    "serve",
]
