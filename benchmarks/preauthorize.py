"""What does a preauthorization cost, from typed arguments to a typed result?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal

import aiohttp
import attrs
import orjson

from benchmarks import subjects
from benchmarks.contenders import BY_HAND, OURS, TIMEOUT_SECONDS, TOKEN
from benchmarks.reports import Plan, Report
from benchmarks.routes import AMOUNT, STATEMENT
from benchmarks.serving import Server
from benchmarks.subjects import LOOPS, Site, Work, repeated
from jetpay_async import JetpayClient

QUESTION = "What does a preauthorization cost?"
IN_FLIGHT = 64
ACCOUNT = "bank_789"


@attrs.frozen(kw_only=True)
class Reservation:
    """What a careful user keeps of the reply."""

    debit_id: str
    amount: Decimal
    state: str


@asynccontextmanager
async def by_hand(site: Site) -> AsyncIterator[Work]:
    """aiohttp and orjson, as a careful user writes it: a class for the result, and an exact amount."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=site.in_flight)) as session:

        async def preauthorize(card_id: str) -> object:
            headers = {
                "Authorization": f"Bearer {TOKEN}",
                "Accept": "application/json",
                "Content-Type": "application/json",
            }
            body = orjson.dumps({"amount": float(AMOUNT), "to_bank_account_id": ACCOUNT, "statement": STATEMENT})
            url = f"{site.url}/contact/contact_123/creditcards/{card_id}/preauthorize"
            async with session.post(url, data=body, headers=headers) as response:
                reply = orjson.loads(await response.read())
            return Reservation(
                debit_id=reply["debit_id"], amount=Decimal(str(reply["amount"])), state=reply["transaction_state"]
            )

        yield repeated(preauthorize, site.in_flight)


@asynccontextmanager
async def ours(site: Site) -> AsyncIterator[Work]:
    """The client, as the README shows it."""
    amount = Decimal(AMOUNT)
    async with JetpayClient(
        TOKEN, base_url=site.url, max_connections=site.in_flight, timeout=TIMEOUT_SECONDS
    ) as client:

        async def preauthorize(card_id: str) -> object:
            return await client.preauthorize(
                contact_id="contact_123",
                credit_card_id=card_id,
                amount=amount,
                to_bank_account_id=ACCOUNT,
                statement=STATEMENT,
            )

        yield repeated(preauthorize, site.in_flight)


def measure(plan: Plan, server: Server) -> Report:
    """Compare on both loops."""
    with subjects.started({BY_HAND: by_hand, OURS: ours}) as running:
        comparisons = {
            loop: subjects.compare(
                f"Preauthorize, {IN_FLIGHT} in flight, {loop}, plain",
                running,
                Site(url=server.url(), in_flight=IN_FLIGHT, loop=loop),
                server,
                baseline=BY_HAND,
                rounds=plan.rounds,
                seconds=plan.seconds,
                slices=plan.slices,
            )
            for loop in LOOPS
        }
    return Report(
        question=QUESTION,
        figures={
            f"preauthorize / aiohttp by hand, {loop}": each.ratio(OURS, BY_HAND) for loop, each in comparisons.items()
        },
        comparisons=list(comparisons.values()),
    )
