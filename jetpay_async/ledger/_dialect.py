"""What differs between the SQL of SQLite and of PostgreSQL."""

from __future__ import annotations

import attrs


@attrs.frozen
class Dialect:
    """What differs between the backends' SQL."""

    key: str
    """The type of a primary key that the database assigns."""
    number: str
    """The type of a 64-bit integer."""
    real: str
    """The type of a double-precision number."""
    now: str
    """Seconds since the epoch, on the clock that all owners share."""
    wait: str
    """Seconds until no request for a debit can still be on its way."""
    among: str
    """Whether a column is one of ``:ids``."""
    among_texts: str
    """Whether a column is one of ``:debit_ids``."""
    page_first: str
    """The clause that has a page of outcomes cut off before anything is sorted; empty where an index orders them."""
    numbered: str
    """``:ids``, as a table of ids and their places from 1 on."""
    outcomes: str
    """``:outcomes``, JSON, as a table."""
    pending: str
    """The hint to use the index of the pending debits."""
    sending: str
    """The hint to use the index of the debits that are being sent: they are few, but their ids span the whole batch."""
    claim: str
    """The clause that keeps two claims from waiting for each other."""
    lock_rows: str
    """The clause that keeps others from changing the rows that are read, until the end of the transaction."""
    submitted: str
    """``:rows``, JSON, as a table of the references and arguments of a submission."""
    items_left: str
    """The hint to use the index of the items of payments that have no outcome."""
    analyze_payments: str
    """The statement after many payments were added; empty for none."""
    often_changed: str
    """The storage options of a table whose rows all change."""
