"""The ledger's tables and statements, the same for SQLite and PostgreSQL but for what a `Dialect` fills in.

A debit's ``id`` is its batch's number and its position: ``batch << 32 | position``. So a batch, and a chunk of it, is a
range of ids. The indexes are partial: each holds the debits in one state. Every statement that a run repeats uses one
of those, so none slows down as the table grows.

The unique index of the debits that are being sent guarantees that no debit is in flight twice, whatever its batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async.ledger._payment_batch_sql import PaymentBatchStatements, payment_batch_schema
from jetpay_async.ledger._payment_sql import PAYMENT_COLUMNS, PaymentStatements, payment_schema

if TYPE_CHECKING:
    from jetpay_async.ledger._dialect import Dialect

SCHEMA_VERSION = 5
"""Written into each new ledger; `jetpay_async.ledger.migrations` brings older ones up to it."""

CHUNK_SIZE = 250
"""Positions in a chunk."""

ARCHIVED = "\x1f"
"""How the key of a pruned batch begins; keys that users give are printable."""


def schema(dialect: Dialect) -> list[str]:
    """Return the statements that make an empty ledger of the current version."""
    key, number, real = dialect.key, dialect.number, dialect.real
    return [
        f"""CREATE TABLE jetpay_ledger (
            version {number} NOT NULL, next_slot {real} NOT NULL, origin TEXT, account TEXT,
            clock_offset {real}, clock_noted_at {real})""",
        f"""CREATE TABLE jetpay_owner (
            id {key}, token TEXT NOT NULL, host TEXT NOT NULL, pid {number} NOT NULL,
            started_at {real} NOT NULL, lease_until {real}, schema_version {number} NOT NULL)""",
        f"""CREATE TABLE jetpay_batch (
            id {key}, key TEXT NOT NULL UNIQUE, fingerprint TEXT NOT NULL, total {number} NOT NULL,
            duplicates {number} NOT NULL, chunks {number} NOT NULL, submitted_at {real} NOT NULL, finished_at {real},
            last_seq {number} NOT NULL DEFAULT 0, captured {number} NOT NULL DEFAULT 0,
            rejected {number} NOT NULL DEFAULT 0, unknown {number} NOT NULL DEFAULT 0,
            accepted {number} NOT NULL DEFAULT 0)""",
        f"""CREATE TABLE jetpay_debit (
            id {number} PRIMARY KEY, debit_id TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'pending',
            look_first {number} NOT NULL DEFAULT 0, attempts {number} NOT NULL DEFAULT 0,
            owner {number}, intent_at {real}, certain_at {real}, seq {number}, finished_at {real},
            transaction_state TEXT, confirmed_by_status {number}, error TEXT, status {number}, request_id TEXT,
            reason TEXT, seen_state TEXT, intent {number} NOT NULL DEFAULT 0,
            later_state TEXT)
            {dialect.often_changed}""",
        "CREATE UNIQUE INDEX jetpay_debit_once ON jetpay_debit (debit_id, (id >> 32))",
        "CREATE INDEX jetpay_debit_pending ON jetpay_debit (id) WHERE state = 'pending'",
        "CREATE UNIQUE INDEX jetpay_debit_sending ON jetpay_debit (debit_id) WHERE state = 'sending'",
        "CREATE INDEX jetpay_debit_rejected ON jetpay_debit (id) WHERE state = 'rejected'",
        "CREATE INDEX jetpay_debit_accepted ON jetpay_debit (id) WHERE state = 'accepted'",
        "CREATE INDEX jetpay_debit_unknown ON jetpay_debit (id) WHERE state = 'unknown'",
        "CREATE UNIQUE INDEX jetpay_debit_seq ON jetpay_debit (seq) WHERE seq IS NOT NULL",
        *payment_schema(dialect),
        *payment_batch_schema(dialect),
        f"INSERT INTO jetpay_ledger (version, next_slot) VALUES ({SCHEMA_VERSION}, 0)",
    ]


def span(batch: int, chunk: int | None = None) -> dict[str, int]:
    """Return the range of the ids of a batch, or of a chunk of it: from ``low``, and below ``high``."""
    if chunk is None:
        return {"low": batch << 32, "high": (batch + 1) << 32}
    low = (batch << 32) + chunk * CHUNK_SIZE
    return {"low": low, "high": low + CHUNK_SIZE}


def batch_of(debit: int) -> int:
    """Return the number of the batch that a debit is in, by the debit's ``id``."""
    return debit >> 32


_IS_LISTED = f"substr(b.key, 1, 1) <> '{ARCHIVED}'"


class Statements:
    """Every statement of the ledger in one dialect, with ``:name`` for its parameters."""

    def __init__(self, dialect: Dialect) -> None:
        now = dialect.now
        wait = dialect.wait
        self.version = "SELECT version FROM jetpay_ledger"
        self.now = f"SELECT {now}"
        self.version_and_clock = "SELECT version, clock_offset, clock_noted_at FROM jetpay_ledger"
        self.note_clock = f"UPDATE jetpay_ledger SET clock_offset = :offset, clock_noted_at = {now}"
        # What was left to wait when the clock was noted last, from now on. A ledger in which none was noted shows only
        # how long each wait was at first.
        self.move_to_clock = [
            f"""
            UPDATE {table} SET certain_at = {now} + certain_at - COALESCE(:noted_at, intent_at)
            WHERE {condition} AND certain_at > COALESCE(:noted_at, intent_at)"""
            for table, condition in (
                ("jetpay_debit", "state <> 'captured'"),
                ("jetpay_payment", "state IN ('sending', 'unknown')"),
            )
        ]
        self.origin = "SELECT origin, account FROM jetpay_ledger"
        self.set_origin = """
            UPDATE jetpay_ledger SET origin = COALESCE(origin, :origin), account = COALESCE(account, :account)
            RETURNING origin, account"""
        self.payments = PaymentStatements(dialect)
        self.payment_batches = PaymentBatchStatements(dialect, PAYMENT_COLUMNS)
        self._name_owners(now)
        self._name_batches(dialect, wait)
        self._name_captures(dialect, wait)
        self._name_reading(dialect)
        self._name_maintenance(dialect)

    def _name_owners(self, now: str) -> None:
        sending = """(
            SELECT owner FROM jetpay_debit WHERE state = 'sending'
            UNION ALL SELECT owner FROM jetpay_payment WHERE state = 'sending')"""
        self.register = f"""
            INSERT INTO jetpay_owner (token, host, pid, started_at, lease_until, schema_version)
            VALUES (:token, :host, :pid, {now}, {now} + :lease, {SCHEMA_VERSION}) RETURNING id"""
        self.renew = f"UPDATE jetpay_owner SET lease_until = {now} + :lease WHERE id = :owner AND lease_until > {now}"
        self.remove_owner = "DELETE FROM jetpay_owner WHERE id = :owner"
        self.remove_lapsed = f"DELETE FROM jetpay_owner WHERE lease_until <= {now} AND id <> :owner"
        self.others = f"SELECT id, token FROM jetpay_owner WHERE id <> :owner AND id IN {sending}"
        self.idle_others = f"SELECT id, token FROM jetpay_owner WHERE id <> :owner AND id NOT IN {sending}"
        self.is_owner = "SELECT 1 FROM jetpay_owner WHERE id = :owner"
        self.all_owners = "SELECT id, token FROM jetpay_owner"
        self.any_owner = "SELECT host, pid FROM jetpay_owner LIMIT 1"
        self.remove_all_lapsed = f"DELETE FROM jetpay_owner WHERE lease_until <= {now}"
        self.sees_others = "SELECT 1 FROM jetpay_debit WHERE state = 'sending' AND owner <> :owner LIMIT 1"
        self.mine_or_free = """
            SELECT 1 FROM jetpay_debit
            WHERE id >= :low AND id < :high AND (state = 'pending' OR (state = 'sending' AND owner = :owner)) LIMIT 1"""

    def _name_batches(self, dialect: Dialect, wait: str) -> None:
        now = dialect.now
        self.find_batch = """
            SELECT id, fingerprint, total, duplicates, chunks FROM jetpay_batch WHERE key = :key"""
        self.add_batch = f"""
            INSERT INTO jetpay_batch (key, fingerprint, total, duplicates, chunks, submitted_at)
            VALUES (:key, :fingerprint, 0, 0, :chunks, {now}) RETURNING id"""
        self.count_batch = f"""
            UPDATE jetpay_batch SET total = :total, duplicates = :duplicates,
                finished_at = CASE WHEN :total = 0 THEN {now} END
            WHERE id = :batch"""
        self.find_debits = f"""
            SELECT id FROM jetpay_debit WHERE debit_id {dialect.among_texts} AND id >= :low AND id < :high"""
        self.reopen_unknown = """
            UPDATE jetpay_debit SET state = 'pending', look_first = 1, seq = NULL, finished_at = NULL
            WHERE state = 'unknown' AND id >= :low AND id < :high"""
        self.reopen_rejected = """
            UPDATE jetpay_debit SET state = 'pending', look_first = 1, seq = NULL, finished_at = NULL
            WHERE state = 'rejected' AND id >= :low AND id < :high"""
        self.reopened = """
            UPDATE jetpay_batch SET rejected = rejected - :rejected, unknown = unknown - :unknown, finished_at = NULL
            WHERE id = :batch"""
        progress = f"""b.total, b.captured, b.accepted, b.rejected, b.unknown,
                (SELECT COUNT(*) FROM jetpay_debit d {dialect.sending}
                 WHERE d.state = 'sending' AND d.id >= b.id << 32 AND d.id < (b.id + 1) << 32),
                b.key, b.submitted_at, b.finished_at, b.chunks
            FROM jetpay_batch b"""
        self.progress_of = f"SELECT {progress} WHERE b.id = :batch"
        self.progress_of_all = f"SELECT b.id, {progress} WHERE {_IS_LISTED} ORDER BY b.id"
        self.chunk_counts = """
            SELECT state, COUNT(*) FROM jetpay_debit WHERE id >= :low AND id < :high GROUP BY state"""
        self.chunks_left = f"""
            SELECT (id - :low) / {CHUNK_SIZE} AS chunk FROM jetpay_debit
            WHERE state = 'pending' AND id >= :low AND id < :high
            UNION
            SELECT (id - :low) / {CHUNK_SIZE} FROM jetpay_debit {dialect.sending}
            WHERE state = 'sending' AND id >= :low AND id < :high
            ORDER BY chunk"""
        self.chunks_accepted = f"""
            SELECT DISTINCT (id - :low) / {CHUNK_SIZE} AS chunk FROM jetpay_debit
            WHERE state = 'accepted' AND id >= :low AND id < :high ORDER BY chunk"""
        # Debits in doubt that a batch waits for: its own, and those of other batches that it has too.
        self.waiting = f"""
            SELECT COUNT(*), MAX({wait}) FROM jetpay_debit d {dialect.sending}
            WHERE d.state = 'sending' AND d.look_first = 1 AND {wait} > 0
                AND ((d.id >= :low AND d.id < :high) OR EXISTS (
                    SELECT 1 FROM jetpay_debit p
                    WHERE p.debit_id = d.debit_id AND p.id >> 32 = :batch AND p.state = 'pending'))"""

    def _name_captures(self, dialect: Dialect, wait: str) -> None:
        now = dialect.now
        # What is being sent has each debit once. It is looked up for each row: a planner that expects to find it empty
        # would compare each pending debit with all of it, rather than join by the index.
        self.pending = f"""
            SELECT d.id FROM jetpay_debit d {dialect.pending}
            WHERE d.state = 'pending' AND d.id >= :low AND d.id < :high
                AND (SELECT o.id FROM jetpay_debit o WHERE o.state = 'sending' AND o.debit_id = d.debit_id) IS NULL
            ORDER BY d.id LIMIT :limit {dialect.claim}"""
        # A slot further ahead than any owner reserves was written by a clock that has been set back since.
        self.next_slot = f"""
            UPDATE jetpay_ledger
            SET next_slot = CASE WHEN next_slot < {now} OR next_slot > {now} + :farthest THEN {now} ELSE next_slot END
            RETURNING next_slot - {now}"""
        self.reserve_slots = "UPDATE jetpay_ledger SET next_slot = next_slot + :span"
        self.expect_lost_requests = f"""
            UPDATE jetpay_debit
            SET look_first = 1, intent_at = COALESCE(intent_at, {now}), certain_at = :certain_at
            WHERE id {dialect.among} AND (certain_at IS NULL OR certain_at < :certain_at)"""
        self.expect_lost_requests_of_pending = f"""
            UPDATE jetpay_debit
            SET look_first = 1, intent_at = COALESCE(intent_at, {now}), certain_at = :certain_at
            WHERE state = 'pending' AND (certain_at IS NULL OR certain_at < :certain_at)"""
        self.expect_lost_requests_of_sending = """
            UPDATE jetpay_debit SET certain_at = :certain_at WHERE state = 'sending' AND certain_at < :certain_at"""
        # What is looked at first is not sent by this intent, so that the times of its latest request stay.
        mark = f"""
            UPDATE jetpay_debit
            SET state = 'sending', owner = :owner, intent = intent + 1, attempts = attempts + 1 - look_first,
                intent_at = CASE look_first WHEN 0 THEN {now} ELSE COALESCE(intent_at, {now}) END,
                certain_at = CASE look_first WHEN 0 THEN {now} + :resolve
                    ELSE COALESCE(certain_at, {now} + :resolve) END"""
        self.mark_sending = f"{mark} WHERE id {dialect.among}"
        self.claim_pending = f"""
            WITH chosen AS MATERIALIZED ({self.pending}) {mark} WHERE id IN (SELECT id FROM chosen) RETURNING id"""
        # Read when nobody else can claim the same debit any more. The last column says whether rows of other batches
        # know what became of the debit, or leave it in doubt; a pending one that was handed over does so no longer.
        self.claimed = f"""
            SELECT d.id, d.debit_id, d.intent, d.attempts, d.look_first, (
                SELECT MAX(CASE WHEN o.state IN ('captured', 'accepted') THEN 1
                    WHEN o.state = 'pending' AND (o.look_first = 0 OR o.seen_state IS NOT NULL) THEN o.look_first
                    WHEN o.certain_at IS NULL THEN 0 ELSE 1 END)
                FROM jetpay_debit o WHERE o.debit_id = d.debit_id AND o.id <> d.id)
            FROM jetpay_debit d WHERE d.id {dialect.among} ORDER BY d.id"""
        self.known = f"""
            SELECT debit_id, state, transaction_state, confirmed_by_status FROM jetpay_debit
            WHERE debit_id {dialect.among_texts} AND state IN ('captured', 'accepted') ORDER BY state"""
        latest = """
            FROM jetpay_debit o
            WHERE o.debit_id = jetpay_debit.debit_id AND (o.id <> jetpay_debit.id OR o.look_first = 1)"""
        self.resolve_first = f"""
            UPDATE jetpay_debit
            SET look_first = 1, attempts = attempts - 1 + look_first,
                intent_at = COALESCE((SELECT MAX(o.intent_at) {latest}), intent_at),
                certain_at = COALESCE((SELECT MAX(o.certain_at) {latest}), certain_at),
                seen_state = COALESCE(seen_state, (SELECT MAX(o.seen_state) {latest}))
            WHERE id {dialect.among}
            RETURNING id, debit_id, intent, attempts, {wait}, seen_state"""
        # From now on the rows of `resolve_first` stand for these too: resolving one is enough.
        self.hand_over_resolution = f"""
            UPDATE jetpay_debit SET certain_at = NULL
            WHERE debit_id {dialect.among_texts} AND certain_at IS NOT NULL
                AND (state IN ('rejected', 'unknown') OR (state = 'pending' AND look_first = 1))"""
        self.take_over = f"""
            UPDATE jetpay_debit {dialect.sending} SET owner = :owner, intent = intent + 1, look_first = 1
            WHERE state = 'sending' AND owner <> :owner AND owner NOT IN (SELECT id FROM jetpay_owner)
                AND ((id >= :low AND id < :high) OR EXISTS (
                    SELECT 1 FROM jetpay_debit p
                    WHERE p.debit_id = jetpay_debit.debit_id AND p.state = 'pending'
                        AND p.id >= :low AND p.id < :high))
            RETURNING id, debit_id, intent, attempts, {wait}, seen_state"""
        self.reserve_sequence = """
            UPDATE jetpay_batch SET last_seq = last_seq + :finished WHERE id = :batch RETURNING last_seq - :finished"""
        self.count = f"""
            UPDATE jetpay_batch
            SET captured = captured + :captured, accepted = accepted + :accepted,
                rejected = rejected + :rejected, unknown = unknown + :unknown,
                finished_at = CASE WHEN captured + accepted + rejected + unknown + :finished >= total
                    THEN COALESCE(finished_at, {now}) END
            WHERE id = :batch"""
        # Counts what is recorded next, in the same transaction, and has it numbered by `last_seq`.
        self.count_ahead = f"""
            UPDATE jetpay_batch
            SET last_seq = last_seq + :finished, captured = captured + :captured, accepted = accepted + :accepted,
                rejected = rejected + :rejected, unknown = unknown + :unknown,
                finished_at = CASE WHEN captured + accepted + rejected + unknown + :finished >= total
                    THEN COALESCE(finished_at, {now}) END
            WHERE id = :batch"""
        self.last_seq = "SELECT last_seq FROM jetpay_batch WHERE id = :batch"
        base = "(SELECT :base + b.last_seq FROM jetpay_batch b WHERE b.id = :batch)"
        # What becomes of nearly all: the first request was answered, as expected.
        self.record_paid = f"""
            UPDATE jetpay_debit
            SET state = 'captured', look_first = 0, seq = {base} + o.place, finished_at = {now},
                transaction_state = 'paid', confirmed_by_status = 0, error = NULL, status = NULL,
                request_id = NULL, reason = NULL
            FROM {dialect.numbered}
            WHERE jetpay_debit.id = o.id AND jetpay_debit.owner = :owner AND jetpay_debit.intent = :intent
                AND jetpay_debit.state = 'sending'"""
        # Fenced by owner and intent: what another one took over, or what was claimed anew, is not its own. Of what is
        # released, an event may have said meanwhile, unknown to its owner, that it is beyond `preauthorized`.
        self.record = f"""
            UPDATE jetpay_debit
            SET state = o.state, attempts = o.attempts, seq = {base} + o.seq,
                look_first = CASE WHEN o.state = 'pending' AND jetpay_debit.seen_state IS NOT NULL THEN 1
                    ELSE o.resolve_first END,
                finished_at = CASE WHEN o.seq IS NULL THEN NULL ELSE {now} END,
                certain_at = CASE WHEN o.certain_in IS NULL THEN certain_at ELSE {now} + o.certain_in END,
                transaction_state = o.transaction_state, confirmed_by_status = o.confirmed_by_status,
                seen_state = COALESCE(o.seen_state, jetpay_debit.seen_state),
                error = o.error, status = o.status, request_id = o.request_id, reason = o.reason
            FROM {dialect.outcomes}
            WHERE jetpay_debit.id = o.id AND jetpay_debit.owner = :owner AND jetpay_debit.intent = o.intent
                AND jetpay_debit.state = 'sending'"""
        self.recorded = f"""
            SELECT state FROM jetpay_debit
            WHERE id {dialect.among} AND seq > :base AND seq <= :base + :finished"""
        # Nobody owns an accepted or an unknown debit: whoever reads its status records what it says.
        self.record_followed = f"""
            UPDATE jetpay_debit
            SET state = o.state, seq = CASE WHEN o.seq IS NULL THEN jetpay_debit.seq ELSE :base + o.seq END,
                finished_at = CASE WHEN o.seq IS NULL THEN finished_at ELSE {now} END,
                transaction_state = o.transaction_state, confirmed_by_status = o.confirmed_by_status,
                seen_state = COALESCE(o.seen_state, jetpay_debit.seen_state),
                error = o.error, status = o.status, request_id = o.request_id, reason = o.reason
            FROM {dialect.outcomes}
            WHERE jetpay_debit.id = o.id AND jetpay_debit.state = :earlier"""

    def _name_reading(self, dialect: Dialect) -> None:
        # Few: each column of each row costs.
        outcome = """debit_id, state, attempts, transaction_state, confirmed_by_status, intent_at, error, status,
            request_id, reason"""
        next_outcomes = f"""
            SELECT seq AS place, {outcome} FROM jetpay_debit
            WHERE seq > :after AND seq < :high AND state <> 'accepted'"""
        self.outcomes = f"{next_outcomes} ORDER BY place LIMIT :limit"
        # The batch comes first: its key, and how many debits are left and accepted, in the columns of an outcome.
        self.completion_and_outcomes = f"""
            SELECT :after AS place, b.key AS debit_id, NULL AS state,
                b.total - b.captured - b.accepted - b.rejected - b.unknown AS attempts, NULL AS transaction_state,
                b.accepted AS confirmed_by_status, NULL AS intent_at, NULL AS error, NULL AS status,
                NULL AS request_id, NULL AS reason
            FROM jetpay_batch b WHERE b.id = :batch
            UNION ALL SELECT * FROM ({next_outcomes} {dialect.page_first}) AS next ORDER BY place LIMIT :limit + 1"""
        self.last_outcomes = f"""
            SELECT id AS place, {outcome} FROM jetpay_debit
            WHERE id > :after AND id < :high AND (state = 'accepted' OR seq > :seq) ORDER BY id LIMIT :limit"""
        columns = """id, debit_id, state, attempts, intent_at, finished_at, transaction_state, confirmed_by_status,
            error, status, request_id, reason, later_state"""
        self.items = f"""
            SELECT {columns} FROM jetpay_debit WHERE id > :after AND id < :high ORDER BY id LIMIT :limit"""
        self.items_in = {
            state: f"""
                SELECT {columns} FROM jetpay_debit {dialect.sending if state == "sending" else ""}
                WHERE state = '{state}' AND id > :after AND id < :high ORDER BY id LIMIT :limit"""
            for state in ("pending", "sending", "captured", "accepted", "rejected", "unknown")
        }

    def _name_maintenance(self, dialect: Dialect) -> None:
        states = ("captured", "accepted", "rejected", "unknown")
        counted = ", ".join(f"SUM(CASE WHEN state = '{state}' THEN 1 ELSE 0 END) AS {state}" for state in states)
        differ = " OR ".join(f"b.{state} <> COALESCE(d.{state}, 0)" for state in states)
        # One statement, so that a run that goes on meanwhile changes nothing in between.
        self.miscounted = f"""
            SELECT b.key FROM jetpay_batch b LEFT JOIN (
                SELECT id >> 32 AS batch, COUNT(*) AS total, {counted} FROM jetpay_debit GROUP BY id >> 32
            ) d ON d.batch = b.id
            WHERE b.total <> COALESCE(d.total, 0) OR {differ} ORDER BY b.id"""
        self.without_batch = """
            SELECT COUNT(*) FROM jetpay_debit d
            WHERE NOT EXISTS (SELECT 1 FROM jetpay_batch b WHERE b.id = d.id >> 32)"""
        self.odd_states = """
            SELECT COUNT(*) FROM jetpay_debit
            WHERE state NOT IN ('pending', 'sending', 'captured', 'accepted', 'rejected', 'unknown')"""
        self.without_time = """
            SELECT COUNT(*) FROM jetpay_debit
            WHERE state = 'sending' AND (owner IS NULL OR intent_at IS NULL OR certain_at IS NULL)"""
        self.out_of_order = f"""
            SELECT COUNT(*) FROM jetpay_debit d JOIN jetpay_batch b ON b.id = d.id >> 32
            WHERE {_IS_LISTED} AND (d.state IN ('pending', 'sending')) = (d.seq IS NOT NULL)"""
        self.counts_by_state = "SELECT state, COUNT(*) FROM jetpay_debit GROUP BY state"
        self.counts_of_batches = f"""
            SELECT SUM(CASE WHEN {_IS_LISTED} THEN 1 ELSE 0 END), SUM(CASE WHEN {_IS_LISTED} THEN 0 ELSE b.total END)
            FROM jetpay_batch b"""
        self.count_owners = "SELECT COUNT(*) FROM jetpay_owner"
        # Whatever reopens a debit of it waits for this lock, or has taken `finished_at` away before.
        self.lock_finished = f"""
            SELECT b.id FROM jetpay_batch b
            WHERE b.finished_at < :before AND {_IS_LISTED} AND b.captured + b.rejected = b.total
                AND NOT EXISTS (
                    SELECT 1 FROM jetpay_debit d
                    WHERE d.state = 'rejected' AND d.id >= b.id << 32 AND d.id < (b.id + 1) << 32
                        AND d.certain_at > {dialect.now})
            ORDER BY b.id {dialect.lock_rows}"""
        self.count_unresolved_batches = f"""
            SELECT COUNT(*) FROM jetpay_batch b WHERE b.submitted_at < :before AND {_IS_LISTED}
                AND b.captured + b.rejected < b.total"""
        self.remove_rejected = "DELETE FROM jetpay_debit WHERE state = 'rejected' AND id >= :low AND id < :high"
        self.reduce_captured = """
            UPDATE jetpay_debit
            SET seq = NULL, owner = NULL, intent_at = NULL, certain_at = NULL, request_id = NULL, reason = NULL
            WHERE state = 'captured' AND id >= :low AND id < :high"""
        self.archive = f"""
            UPDATE jetpay_batch
            SET key = '{ARCHIVED}' || id, fingerprint = '', total = :kept, captured = :kept, rejected = 0
            WHERE id = :batch"""
        self.remove_batch = "DELETE FROM jetpay_batch WHERE id = :batch"
