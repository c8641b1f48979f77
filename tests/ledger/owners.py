"""Owners of a ledger, as its tables know them."""

from __future__ import annotations

from jetpay_async.ledger._backend import Connection


def add_owner(connection: Connection, owner: int) -> None:
    """Have the ledger name an owner, which is alive."""
    connection.change(
        """INSERT INTO jetpay_owner (id, token, host, pid, started_at, lease_until, schema_version)
        VALUES (:owner, :token, 'host', 1, 0, 1e12, 3)""",
        {"owner": owner, "token": f"token-{owner}"},
    )
