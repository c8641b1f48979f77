"""A database for each test, and the shop's settings for it. ``TEST_DATABASE_URL`` names a PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from jetpay_async import RetryPolicy
from jetpay_async.sandbox import Sandbox
from rental.payments import Settings, create_tables


@pytest.fixture
def settings(jetpay_sandbox: Sandbox) -> Iterator[Settings]:
    """Return settings of a sandbox and of an empty database, which has the shop's tables.

    It is synchronous, as `jetpay_sandbox` is: tests in any event loop can use it, and tests without one.
    """
    server, name = os.environ["TEST_DATABASE_URL"], f"rental_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    asyncio.run(create_tables(url))
    yield Settings(
        database_url=url,
        api_token=jetpay_sandbox.api_token,
        base_url=jetpay_sandbox.url,
        merchant_account_id=jetpay_sandbox.merchant_account_id,
        webhook_ids=frozenset({1}),
        timeout=3.0,  # of the whole call, and what is not answered in it is unknown
        retry=RetryPolicy(base_delay=0.02, resolve_after=0.2, resolve_after_timeout=0.2),
        lease_seconds=1.0,
    )
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
