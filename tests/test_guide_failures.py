"""Every operation of the guide at every point of failure: what the server received, and what the caller got.

Each is made on a connection that was used before, which is where aiohttp sends PUT and DELETE a second time by itself.
"""

from __future__ import annotations

import attrs
import pytest

from jetpay_async import (
    InvalidRequestError,
    JetpayError,
    NotFoundError,
    OutcomeUnknownError,
    RawAnswer,
    ServiceError,
    Webhook,
)
from tests import loopback
from tests.guide import ACCOUNT_NUMBER, API_KEY, CALLS, WRITES, GuideCall
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Act, Loopback, replies, work_then
from tests.network import FAST, Network, every_network, outcome

ACTS: dict[str, Act] = {
    "hang up": loopback.hang_up,
    "reset": loopback.reset,
    "cut in the body": loopback.cut_body,
    "502 with HTML": replies(502, HTML),
    "500 with JSON": replies(500, {"detail": "no"}),
}
every_act = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
every_write = pytest.mark.parametrize("asked", WRITES, ids=lambda asked: asked.name)


@every_network
@every_act
@pytest.mark.parametrize("done", [False, True], ids=["not done", "done"])
@every_write
def test_a_failed_write_is_sent_again_only_where_that_does_no_harm(
    asked: GuideCall, act: Act, network: Network, *, done: bool
) -> None:
    """What acts twice leaves once and is unknown; a registration is looked up; what acts once is repeated."""

    async def main() -> None:
        server = Loopback(scripts={asked.route: [work_then(act) if done else act]})
        async with network.serve(server), network.connect(server) as client:
            await client.transaction_status(DEBIT_ID)
            got = await outcome(asked.call(client))

        requests = [f"{request.method} {request.target}" for request in server.requests]
        assert server.count("elsewhere") == 0
        if asked.twice == "never":
            assert isinstance(got, OutcomeUnknownError)
            assert (got.operation, got.moves_money, got.attempts) == (asked.name, asked.moves_money, 1)
            assert ("which moves no money" in str(got)) is not asked.moves_money
            assert ACCOUNT_NUMBER not in str(vars(got))
            assert requests.count(asked.line) == 1
            assert server.worked[asked.route] == done
        elif asked.twice == "list":
            assert isinstance(got, Webhook)
            assert got.confirmed_by_list is done
            assert requests.count(asked.line) == got.attempts == (1 if done else 2)
            assert server.worked[asked.route] == 1
        else:
            assert not isinstance(got, JetpayError)
            assert requests.count(asked.line) == 2
            assert server.worked[asked.route] == (2 if done else 1)

    network.run(main)


@every_network
@pytest.mark.parametrize("asked", CALLS, ids=lambda asked: asked.name)
def test_a_rejection_is_final(asked: GuideCall, network: Network) -> None:
    """The API's no is believed at once, whatever the operation."""

    async def main() -> None:
        async with network.serve(Loopback(scripts={asked.route: [replies(422, FASTAPI[422])]})) as server:
            async with network.connect(server) as client:
                got = await outcome(asked.call(client))

        assert type(got) is InvalidRequestError
        assert got.operation == asked.name
        assert len(server.requests) == 1

    network.run(main)


@every_network
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("body", [None, {"a": 1}], ids=["empty", "with a body"])
def test_an_unknown_request_is_sent_once_unless_it_may_be_repeated(body: object, method: str, network: Network) -> None:
    """What nobody knows leaves once, whatever its method, unless the caller says that it may be repeated."""

    async def main() -> None:
        server = Loopback(scripts={"elsewhere": [loopback.hang_up, loopback.hang_up]})
        async with network.serve(server), network.connect(server) as client:
            await client.transaction_status(DEBIT_ID)
            never = await outcome(client.request(method, "/new/call?x=1", json=body))  # type: ignore[arg-type] # JSON
            once = server.count("elsewhere")
            repeated = await outcome(
                client.request(method, "/new/call?x=1", json=body, replay_safety="idempotent")  # type: ignore[arg-type] # JSON
            )

        assert isinstance(never, OutcomeUnknownError)
        assert never.arguments == {"method": method, "path": "/new/call?x=1"}
        assert once == 1
        assert isinstance(repeated, RawAnswer)
        assert repeated.attempts == 2
        assert server.count("elsewhere") == 3
        assert {request.target for request in server.requests[1:]} == {"/new/call?x=1"}

    network.run(main)


@every_network
def test_a_lost_removal_is_done_when_the_webhook_is_missing(network: Network) -> None:
    """A 404 after a removal without an answer is success; a 404 at once says that there was no such webhook."""

    async def main() -> None:
        missing = replies(404, FASTAPI[404])
        server = Loopback(scripts={"remove_webhook": [work_then(loopback.hang_up), missing, missing]})
        async with network.serve(server), network.connect(server) as client:
            removed = await outcome(client.remove_webhook("webhook_123"))
            again = await outcome(client.remove_webhook("webhook_123"))

        assert removed is None
        assert type(again) is NotFoundError
        assert server.count("remove_webhook") == 3

    network.run(main)


@every_network
def test_contacts_are_sent_again_where_the_policy_says_so(network: Network) -> None:
    """`resend_harmless` repeats contacts and nothing else; what stays without an answer is still unknown."""

    async def main() -> None:
        cut = loopback.hang_up
        server = Loopback(
            scripts={
                "create_contact": [cut, loopback.behave, cut, cut, cut, cut, replies(422, FASTAPI[422])],
                "create_bank_account": [cut],
            }
        )
        harmless = attrs.evolve(FAST, resend_harmless=True)
        calls = {call.name: call.call for call in CALLS}
        async with network.serve(server), network.connect(server, retry=harmless) as client:
            made = await outcome(calls["create_contact"](client))
            lost = await outcome(calls["create_contact"](client))
            rejected = await outcome(calls["create_contact"](client))
            account = await outcome(calls["create_bank_account"](client))

        assert not isinstance(made, JetpayError)
        assert isinstance(lost, OutcomeUnknownError)
        assert (lost.attempts, lost.moves_money) == (3, False)
        assert isinstance(rejected, OutcomeUnknownError)
        assert "an earlier request got no answer" in rejected.reason
        assert isinstance(account, OutcomeUnknownError)
        assert account.attempts == 1

    network.run(main)


@every_network
def test_what_may_be_repeated_is_not_unknown(network: Network) -> None:
    """When each attempt at an idempotent write is lost, calling again is safe, and the error says so."""

    async def main() -> None:
        server = Loopback(scripts={"card_form": [loopback.hang_up] * 3})
        async with network.serve(server), network.connect(server) as client:
            got = await outcome(client.card_form("contact_123"))

        assert type(got) is ServiceError
        assert server.count("card_form") == 3
        assert API_KEY not in str(got)

    network.run(main)
