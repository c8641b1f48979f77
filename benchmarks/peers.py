"""The SDKs of other vendors, making the request that is nearest to a capture against the same server.

Each is made as its own documentation makes it, with its retries and its telemetry off. Each is imported only in the
process that measures it.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from benchmarks.subjects import Contender, Site, Work, repeated

if TYPE_CHECKING:
    import stripe

KEY = "sk_test_benchmark"


@asynccontextmanager
async def _stripe(site: Site, http_client: stripe.HTTPClient) -> AsyncIterator[Work]:
    import stripe

    stripe.enable_telemetry = False
    client = stripe.StripeClient(KEY, base_addresses={"api": site.url}, http_client=http_client, max_network_retries=0)
    yield repeated(client.v1.payment_intents.capture_async, site.in_flight)
    await http_client.close_async()


@asynccontextmanager
async def stripe_on_aiohttp(site: Site) -> AsyncIterator[Work]:
    """stripe-python over aiohttp."""
    import stripe

    _trust(stripe)
    async with _stripe(site, stripe.AIOHTTPClient()) as work:
        yield work


@asynccontextmanager
async def stripe_on_httpx(site: Site) -> AsyncIterator[Work]:
    """stripe-python over httpx."""
    import stripe

    _trust(stripe)
    async with _stripe(site, stripe.HTTPXClient()) as work:
        yield work


def _trust(stripe: object) -> None:
    """Point it at the server's authority: it reads no environment."""
    if authority := os.environ.get("SSL_CERT_FILE"):
        stripe.ca_bundle_path = authority  # type: ignore[attr-defined] # a module


@asynccontextmanager
async def square(site: Site) -> AsyncIterator[Work]:
    """Square: complete a payment."""
    import httpx
    from square import AsyncSquare

    async with httpx.AsyncClient(timeout=60, follow_redirects=True) as http_client:
        client = AsyncSquare(token=KEY, base_url=site.url, httpx_client=http_client)

        async def complete(payment_id: str) -> object:
            return await client.payments.complete(payment_id, request_options={"max_retries": 0})

        yield repeated(complete, site.in_flight)


@asynccontextmanager
async def mollie(site: Site) -> AsyncIterator[Work]:
    """Mollie: capture a payment."""
    from mollie import ClientSDK, models

    async with ClientSDK(
        security=models.Security(api_key="test_benchmark0000000000000000000"), server_url=site.url, retry_config=None
    ) as client:

        async def capture(payment_id: str) -> object:
            return await client.captures.create_async(payment_id=payment_id)

        yield repeated(capture, site.in_flight)


@asynccontextmanager
async def openai(site: Site) -> AsyncIterator[Work]:
    """OpenAI: cancel a batch, its POST that is most like a capture: an id in the path, and no body."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(api_key=KEY, base_url=f"{site.url}/v1", max_retries=0) as client:
        yield repeated(client.batches.cancel, site.in_flight)


@asynccontextmanager
async def raw_httpx(site: Site) -> AsyncIterator[Work]:
    """httpx by hand, with its own limits: as many kept connections as there are requests in flight cost it more."""
    import httpx
    import orjson

    async with httpx.AsyncClient() as client:

        async def capture(debit_id: str) -> object:
            headers = {"Authorization": f"Bearer {KEY}", "Accept": "application/json"}
            response = await client.post(f"{site.url}/debit/{debit_id}/capture", headers=headers)
            return orjson.loads(response.content)

        yield repeated(capture, site.in_flight)


STRIPE_AIOHTTP, STRIPE_HTTPX, SQUARE, MOLLIE, OPENAI, HTTPX = (
    "stripe, AIOHTTPClient",
    "stripe, HTTPXClient",
    "square",
    "mollie",
    "openai",
    "httpx by hand",
)

PEERS: Mapping[str, Contender] = {
    STRIPE_AIOHTTP: stripe_on_aiohttp,
    STRIPE_HTTPX: stripe_on_httpx,
    SQUARE: square,
    MOLLIE: mollie,
    OPENAI: openai,
    HTTPX: raw_httpx,
}
