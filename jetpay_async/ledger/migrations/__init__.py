"""The numbered steps that bring a ledger of an older release up to date, one module for each.

A module is called after the version that it leads to, and is never changed once it was released. It has a function
``statements(dialect)``. The tables that a new ledger gets at once are in `jetpay_async.ledger._sql.schema`; a test
holds that both ways lead to the same tables.

The steps run in one transaction that keeps all others out, while no run is alive and the owners that ended are out of
``jetpay_owner``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async._core.migrations import Migrations
from jetpay_async.ledger._sql import SCHEMA_VERSION
from jetpay_async.ledger.migrations import v2, v3, v4, v5

if TYPE_CHECKING:
    from jetpay_async.ledger._dialect import Dialect


def migrations(dialect: Dialect) -> Migrations:
    """Return the steps in one dialect."""
    steps = {number: step.statements(dialect) for number, step in ((2, v2), (3, v3), (4, v4), (5, v5))}
    return Migrations(SCHEMA_VERSION, steps)
