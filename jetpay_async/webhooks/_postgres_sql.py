"""The tables and statements of an inbox in PostgreSQL.

Every event that arrived has a row, for good: some hundred bytes, so ids and their times are never forgotten. Times are
the server's, the only clock that all machines share. Rows that another transaction holds are skipped, never waited for:
such a transaction is the user's own, which may last.
"""

from __future__ import annotations

VERSION = 3
NOW = "clock_timestamp()"

_TRANSACTION_TABLE = """
    CREATE TABLE jetpay_inbox_transaction (
        source text NOT NULL,
        transaction_id text NOT NULL,
        event_id bigint NOT NULL,
        state text NOT NULL,
        PRIMARY KEY (source, transaction_id)
    )
    """

# Of machines that receive at the same moment each may take what the others are about to insert for missing. So a range
# may hold ids that have arrived, or overlap another one; but what is missing is always in one.
_MISSING_TABLE = """
    CREATE TABLE jetpay_inbox_missing (
        source text NOT NULL,
        first bigint NOT NULL,
        last bigint NOT NULL,
        PRIMARY KEY (source, first, last)
    )
    """

# Run in this order; also what `jetpay webhooks init --print-sql` prints.
CREATE = (
    # The identity separates databases: a mark in another one would mean nothing.
    """
    CREATE TABLE jetpay_inbox_schema (
        version integer NOT NULL,
        identity text NOT NULL DEFAULT md5(random()::text || clock_timestamp()::text)
    )
    """,
    """
    INSERT INTO jetpay_inbox_schema (version) VALUES (3)
    """,
    """
    CREATE TABLE jetpay_inbox (
        source text NOT NULL,
        event_id bigint NOT NULL,
        created_at bigint NOT NULL,
        transaction_id text,
        owner text,
        leased_until double precision NOT NULL DEFAULT 0,
        handled_at double precision,
        document bytea,
        webhook_id bigint,
        attempts integer NOT NULL DEFAULT 0,
        PRIMARY KEY (source, event_id)
    )
    """,
    """
    CREATE INDEX jetpay_inbox_open ON jetpay_inbox (source, event_id) WHERE handled_at IS NULL
    """,
    """
    CREATE INDEX jetpay_inbox_open_transaction ON jetpay_inbox (source, transaction_id, event_id)
    WHERE handled_at IS NULL
    """,
    """
    CREATE INDEX jetpay_inbox_leased ON jetpay_inbox (source, owner) WHERE handled_at IS NULL AND owner IS NOT NULL
    """,
    """
    CREATE TABLE jetpay_inbox_dead_letter (
        source text NOT NULL,
        event_id bigint NOT NULL,
        transaction_id text,
        webhook_id bigint,
        document bytea NOT NULL,
        attempts integer NOT NULL,
        error text NOT NULL,
        failed_at double precision NOT NULL,
        PRIMARY KEY (source, event_id)
    )
    """,
    _TRANSACTION_TABLE,
    _MISSING_TABLE,
)

# What brings tables of the version below up to each version.
MIGRATIONS = {
    2: (_TRANSACTION_TABLE, "UPDATE jetpay_inbox_schema SET version = 2"),
    3: (
        _MISSING_TABLE,
        """
        INSERT INTO jetpay_inbox_missing (source, first, last)
        SELECT source, before + 1, event_id - 1 FROM (
            SELECT source, event_id, lag(event_id) OVER (PARTITION BY source ORDER BY event_id) AS before
            FROM jetpay_inbox
        ) AS rows WHERE event_id > before + 1
        """,
        "DROP TABLE jetpay_inbox_contiguous",
        "UPDATE jetpay_inbox_schema SET version = 3",
    ),
}

# An advisory lock's keys, which all applications of a database share: chosen by chance.
SCHEMA_LOCK = "SELECT pg_advisory_xact_lock(7203518846230917544)"
CLAIM_LOCK = "SELECT pg_try_advisory_xact_lock(1483920557, hashtext(%(source)s))"
FIRST_ARRIVAL_LOCK = "SELECT pg_advisory_xact_lock(1483920558, hashtext(%(source)s))"

HAS_TABLES = "SELECT 1 FROM pg_class WHERE relname = 'jetpay_inbox_schema' AND pg_table_is_visible(oid)"
VERSION_FOUND = "SELECT version FROM jetpay_inbox_schema"

# A transaction's settings are its own: a pooler may lend the connection to others in between. JIT compiles each
# statement whose costs are overestimated, which takes longer than these run. One SELECT costs less than five SETs, of
# which each has a result of its own.
BEGIN = """
    BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
    SELECT set_config('synchronous_commit', 'on', true), set_config('jit', 'off', true),
        set_config('lock_timeout', '{lock_timeout:.0f}ms', true), set_config('statement_timeout', '60s', true),
        set_config('idle_in_transaction_session_timeout', '60s', true)
"""
STATEMENTS_OF_BEGIN = BEGIN.count(";") + 1

SEEN = "SELECT min(event_id), max(event_id) FROM jetpay_inbox WHERE source = %(source)s"

# Leases events all of whose ids are above what has arrived, all or none, in one statement: by far the most frequent
# case. A row that another transaction inserts at the same moment ends it with an error. That a transaction does not see
# what others insert meanwhile makes ranges of missing ids too long, never too short: see their table.
LEASE_NEW = """
    WITH seen AS MATERIALIZED (SELECT max(event_id) AS highest FROM jetpay_inbox WHERE source = %(source)s),
    arrived AS (
        INSERT INTO jetpay_inbox (source, event_id, created_at, webhook_id, owner, leased_until)
        SELECT %(source)s, o.event_id, o.created_at, o.webhook_id, %(owner)s, {now} + %(seconds)s
        FROM unnest(%(ids)s::bigint[], %(times)s::bigint[], %(webhooks)s::bigint[])
            AS o(event_id, created_at, webhook_id), seen
        WHERE seen.highest < %(first)s
        ORDER BY o.event_id
        RETURNING event_id
    ),
    missing AS (
        INSERT INTO jetpay_inbox_missing (source, first, last)
        SELECT %(source)s, before + 1, event_id - 1 FROM (
            SELECT event_id, coalesce(lag(event_id) OVER (ORDER BY event_id), (SELECT highest FROM seen)) AS before
            FROM arrived
        ) AS pairs WHERE event_id > before + 1
        ORDER BY event_id
        ON CONFLICT DO NOTHING
    )
    SELECT highest, (SELECT count(*) FROM arrived) FROM seen
"""
# Without NOT EXISTS, a row that the user's own transaction has marked would be waited for.
ARRIVE = """
    INSERT INTO jetpay_inbox (source, event_id, created_at, webhook_id)
    SELECT %(source)s, o.event_id, o.created_at, o.webhook_id
    FROM unnest(%(ids)s::bigint[], %(times)s::bigint[], %(webhooks)s::bigint[]) AS o(event_id, created_at, webhook_id)
    WHERE NOT EXISTS (SELECT FROM jetpay_inbox i WHERE i.source = %(source)s AND i.event_id = o.event_id)
    ORDER BY o.event_id
    ON CONFLICT DO NOTHING
    RETURNING event_id
"""
CONFLICTS = """
    SELECT i.event_id, i.webhook_id
    FROM jetpay_inbox i
    JOIN unnest(%(ids)s::bigint[], %(times)s::bigint[]) AS o(event_id, created_at) ON o.event_id = i.event_id
    WHERE i.source = %(source)s AND i.created_at <> o.created_at
    ORDER BY i.event_id LIMIT 1
"""
HANDLED = """
    SELECT event_id FROM jetpay_inbox
    WHERE source = %(source)s AND event_id = ANY(%(ids)s) AND handled_at IS NOT NULL
"""
FREE = """
    SELECT event_id FROM jetpay_inbox
    WHERE source = %(source)s AND event_id = ANY(%(ids)s) AND handled_at IS NULL
    AND (owner IS NULL OR owner = %(owner)s OR leased_until <= {now})
    ORDER BY event_id
    FOR UPDATE SKIP LOCKED
"""
TAKE = """
    UPDATE jetpay_inbox SET owner = %(owner)s, leased_until = {now} + %(seconds)s
    WHERE source = %(source)s AND event_id = ANY(%(ids)s)
"""

_OWN = """
    source = %(source)s AND event_id IN (
        SELECT event_id FROM jetpay_inbox
        WHERE source = %(source)s AND owner = %(owner)s AND handled_at IS NULL
        ORDER BY event_id
        FOR UPDATE SKIP LOCKED
    )
"""
RENEW = "UPDATE jetpay_inbox SET leased_until = {now} + %(seconds)s WHERE {own}".replace("{own}", _OWN)
RELEASE = "UPDATE jetpay_inbox SET owner = NULL, leased_until = 0 WHERE {own}".replace("{own}", _OWN)
OWNED = """
    SELECT event_id FROM jetpay_inbox
    WHERE source = %(source)s AND event_id = ANY(%(ids)s) AND owner = %(owner)s
"""

MARK = """
    UPDATE jetpay_inbox SET handled_at = {now}, document = NULL
    WHERE source = %(source)s AND event_id = ANY(%(ids)s::bigint[]) AND owner = %(owner)s AND handled_at IS NULL
"""

# The WHERE keeps the later event; the other transaction's is waited for.
REMEMBER = """
    INSERT INTO jetpay_inbox_transaction (source, transaction_id, event_id, state)
    SELECT DISTINCT ON (o.transaction_id) %(source)s, o.transaction_id, o.event_id, o.state
    FROM unnest(%(ids)s::bigint[], %(transactions)s::text[], %(states)s::text[]) AS o(event_id, transaction_id, state)
    ORDER BY o.transaction_id, o.event_id DESC
    ON CONFLICT (source, transaction_id) DO UPDATE SET event_id = excluded.event_id, state = excluded.state
    WHERE jetpay_inbox_transaction.event_id <= excluded.event_id
"""
LAST_HANDLED = """
    SELECT event_id, state FROM jetpay_inbox_transaction
    WHERE source = %(source)s AND transaction_id = %(transaction)s
"""

STORED = """
    SELECT event_id FROM jetpay_inbox
    WHERE source = %(source)s AND event_id = ANY(%(ids)s) AND (handled_at IS NOT NULL OR document IS NOT NULL)
"""
STORE = """
    UPDATE jetpay_inbox i SET document = o.document, transaction_id = o.transaction_id
    FROM unnest(%(ids)s::bigint[], %(transactions)s::text[], %(documents)s::bytea[])
        AS o(event_id, transaction_id, document)
    WHERE i.source = %(source)s AND i.event_id = o.event_id AND i.handled_at IS NULL
"""
NOTIFY = "SELECT pg_notify('jetpay_inbox', %(source)s)"

# Of what a delivery has leased, the transaction is not known here.
CLAIMED = """
    SELECT 1 FROM jetpay_inbox
    WHERE source = %(source)s AND handled_at IS NULL AND owner IS NOT NULL AND leased_until > {now}
    AND (%(exclusive)s OR document IS NULL)
    LIMIT 1
"""
DUE = """
    SELECT event_id, webhook_id, document FROM jetpay_inbox i
    WHERE source = %(source)s AND handled_at IS NULL AND document IS NOT NULL AND leased_until <= {now}
    AND NOT EXISTS (
        SELECT FROM jetpay_inbox w
        WHERE w.source = i.source AND w.transaction_id = i.transaction_id
        AND w.handled_at IS NULL AND w.leased_until > {now}
        AND (w.owner IS NOT NULL OR w.document IS NOT NULL AND w.event_id < i.event_id)
    )
    ORDER BY event_id LIMIT %(limit)s
    FOR UPDATE NOWAIT
"""
RESCHEDULE = """
    UPDATE jetpay_inbox SET owner = NULL, leased_until = {now} + %(seconds)s
    WHERE source = %(source)s AND event_id = %(id)s AND owner = %(owner)s AND handled_at IS NULL
"""

COUNT_FAILURE = """
    UPDATE jetpay_inbox SET attempts = attempts + 1
    WHERE source = %(source)s AND event_id = %(id)s AND owner = %(owner)s AND handled_at IS NULL
    RETURNING attempts
"""
ATTEMPTS = "SELECT attempts FROM jetpay_inbox WHERE source = %(source)s AND event_id = %(id)s AND owner = %(owner)s"
ADD_DEAD_LETTER = """
    INSERT INTO jetpay_inbox_dead_letter
        (source, event_id, transaction_id, webhook_id, document, attempts, error, failed_at)
    VALUES (%(source)s, %(id)s, %(transaction)s, %(webhook)s, %(document)s, %(attempts)s, %(error)s, {now})
    ON CONFLICT (source, event_id) DO UPDATE
    SET document = excluded.document, attempts = excluded.attempts, error = excluded.error,
        failed_at = excluded.failed_at
"""
DEAD_LETTERS = """
    SELECT webhook_id, document, attempts, error, failed_at FROM jetpay_inbox_dead_letter
    WHERE source = %(source)s ORDER BY event_id
"""
REMOVE_DEAD_LETTER = """
    DELETE FROM jetpay_inbox_dead_letter WHERE source = %(source)s AND event_id = %(id)s
    RETURNING document, transaction_id
"""
REPLAY = """
    UPDATE jetpay_inbox
    SET document = %(document)s, transaction_id = %(transaction)s, handled_at = NULL, owner = NULL, leased_until = 0,
        attempts = 0
    WHERE source = %(source)s AND event_id = %(id)s
"""

ADD_MISSING = """
    INSERT INTO jetpay_inbox_missing (source, first, last)
    SELECT %(source)s, o.first, o.last FROM unnest(%(firsts)s::bigint[], %(lasts)s::bigint[]) AS o(first, last)
    ORDER BY o.first, o.last
    ON CONFLICT DO NOTHING
"""
# What another transaction is changing stays: that it has arrived is seen when it is read.
REMOVE_MISSING = """
    DELETE FROM jetpay_inbox_missing WHERE source = %(source)s AND (first, last) IN (
        SELECT first, last FROM jetpay_inbox_missing
        WHERE source = %(source)s AND first <= %(last)s AND last >= %(first)s
        FOR UPDATE SKIP LOCKED
    )
    RETURNING first, last
"""
# The id after the last one that has arrived of those which follow each other; for a range whose first id has arrived.
_NEXT = """
    SELECT i.event_id + 1 FROM jetpay_inbox i
    WHERE i.source = %(source)s AND i.event_id BETWEEN g.first AND g.last
    AND NOT EXISTS (SELECT FROM jetpay_inbox n WHERE n.source = i.source AND n.event_id = i.event_id + 1)
    ORDER BY i.event_id LIMIT 1
"""
_HAS_ARRIVED = "EXISTS (SELECT FROM jetpay_inbox i WHERE i.source = %(source)s AND i.event_id = g.first)"
# The ranges are read one by one until the first that really lacks an id.
FIRST_MISSING = """
    SELECT found FROM (
        SELECT CASE WHEN {has_arrived} THEN ({next}) ELSE g.first END AS found, g.last FROM (
            SELECT greatest(first, %(start)s) AS first, last FROM jetpay_inbox_missing
            WHERE source = %(source)s AND last >= %(start)s
            ORDER BY jetpay_inbox_missing.first
        ) AS g
    ) AS ranges WHERE found <= last LIMIT 1
""".replace("{has_arrived}", _HAS_ARRIVED).replace("{next}", _NEXT)
# One statement sees one state.
CONTIGUOUS = """
    SELECT (SELECT min(event_id) FROM jetpay_inbox WHERE source = %(source)s),
    (SELECT max(event_id) FROM jetpay_inbox WHERE source = %(source)s),
    (SELECT min(event_id) FROM jetpay_inbox WHERE source = %(source)s AND handled_at IS NULL),
    ({first_missing}),
    (SELECT min(first) FROM jetpay_inbox_missing WHERE source = %(source)s)
""".replace("{first_missing}", FIRST_MISSING)
# So that what has arrived need not be read again.
SHORTEN_MISSING = """
    WITH arrived AS (
        SELECT g.first, g.last, ({next}) AS next FROM (
            SELECT first, last FROM jetpay_inbox_missing WHERE source = %(source)s
            ORDER BY first LIMIT %(limit)s FOR UPDATE SKIP LOCKED
        ) AS g WHERE {has_arrived}
    ),
    removed AS (
        DELETE FROM jetpay_inbox_missing m USING arrived a
        WHERE m.source = %(source)s AND m.first = a.first AND m.last = a.last
        RETURNING a.next, a.last
    )
    INSERT INTO jetpay_inbox_missing (source, first, last)
    SELECT %(source)s, next, last FROM removed WHERE next <= last
    ON CONFLICT DO NOTHING
""".replace("{has_arrived}", _HAS_ARRIVED).replace("{next}", _NEXT)

BACKLOG = """
    SELECT (
        SELECT count(*) FROM (
            SELECT FROM jetpay_inbox WHERE source = %(source)s AND handled_at IS NULL LIMIT %(limit)s
        ) AS open
    ), (
        SELECT created_at FROM jetpay_inbox WHERE source = %(source)s AND handled_at IS NULL
        ORDER BY event_id LIMIT 1
    )
"""

# For transactions of the user's, by any driver. The first statement of the two tells which transaction and database it
# is in; the second one changes nothing unless it is in the same, so it changes nothing under autocommit.
WHICH_TRANSACTION = "SELECT txid_current(), (SELECT identity FROM jetpay_inbox_schema)"
MARK_IN_TRANSACTION = """
    WITH marked AS (
        UPDATE jetpay_inbox SET handled_at = {now}, document = NULL
        WHERE source = CAST(:source AS text) AND event_id = CAST(:id AS bigint) AND owner = CAST(:owner AS text)
        AND handled_at IS NULL AND txid_current() = CAST(:txid AS bigint)
        RETURNING event_id
    )
    SELECT txid_current() = CAST(:txid AS bigint), (SELECT count(*) FROM marked), (
        SELECT count(*) FROM jetpay_inbox
        WHERE source = CAST(:source AS text) AND event_id = CAST(:id AS bigint) AND owner = CAST(:owner AS text)
    )
"""
REMEMBER_IN_TRANSACTION = """
    WITH remembered AS (
        INSERT INTO jetpay_inbox_transaction (source, transaction_id, event_id, state)
        VALUES (CAST(:source AS text), CAST(:transaction AS text), CAST(:id AS bigint), CAST(:state AS text))
        ON CONFLICT (source, transaction_id) DO UPDATE SET event_id = excluded.event_id, state = excluded.state
        WHERE jetpay_inbox_transaction.event_id <= excluded.event_id
        RETURNING event_id
    )
    SELECT count(*) FROM remembered
"""
IDENTITY = "SELECT identity FROM jetpay_inbox_schema"
