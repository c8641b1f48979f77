"""Fetch a key set with aiohttp: the only module for verification that imports it."""

from __future__ import annotations

import aiohttp

from jetpay_async._version import __version__
from jetpay_async.webhooks.errors import KeysUnavailableError, Reason
from jetpay_async.webhooks.keyset import MAX_JWKS_BYTES

_HEADERS = {
    "Accept": "application/json",
    # Without compression there is no decompression bomb.
    "Accept-Encoding": "identity",
    "User-Agent": f"jetpay-async/{__version__}",
}


async def get(url: str) -> bytes:
    """Return the body of a 200; follow no redirect, and read no more than a key set may have."""
    async with (
        aiohttp.ClientSession(headers=_HEADERS, auto_decompress=False, trust_env=False) as session,
        session.get(url, allow_redirects=False) as response,
    ):
        if response.status != 200:
            raise KeysUnavailableError(
                Reason.KEYS_UNREACHABLE, {"url": url, "problem": f"HTTP status {response.status}"}
            )
        document = bytearray()
        async for chunk in response.content.iter_chunked(MAX_JWKS_BYTES):
            document += chunk
            if len(document) > MAX_JWKS_BYTES:
                break  # KeySet.from_jwks rejects it
        return bytes(document)
