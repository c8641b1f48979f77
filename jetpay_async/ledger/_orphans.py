"""Releases reservations that nothing in a ledger knows, and no booking holds."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from jetpay_async.errors import JetpayError, NotFoundError
from jetpay_async.ledger import _payments, _reports, _repository
from jetpay_async.ledger.payment_records import Candidate, OrphanReport
from jetpay_async.models import CAPTURED_STATES, TransactionState

if TYPE_CHECKING:
    from jetpay_async.ledger._backend import CommitExecutor
    from jetpay_async.models import TransactionStatus

Keep = Callable[[Candidate], bool | Awaitable[bool]]
ReadStatus = Callable[[str], Awaitable["TransactionStatus"]]
Cancel = Callable[[str], Awaitable[None]]


async def release_orphans(
    commits: CommitExecutor,
    *,
    origin: str,
    older_than: float,
    keep: Keep,
    read_status: ReadStatus,
    cancel: Cancel,
) -> list[OrphanReport]:
    """Cancel each orphan that ``keep`` does not hold, whose status says before and after that it may be.

    Raises:
        LedgerError: The ledger can't be written, or belongs to another API.
    """
    await commits.run(partial(_repository.bind, origin=origin, account=None))
    await commits.run(partial(_payments.expire, owner=0))
    found = await commits.run(partial(_reports.orphans, older_than=older_than))
    return [await _release(commits, orphan, keep, read_status, cancel) for orphan in found]


async def _release(
    commits: CommitExecutor, orphan: Candidate, keep: Keep, read_status: ReadStatus, cancel: Cancel
) -> OrphanReport:
    transaction_id = orphan.transaction_id
    held = keep(orphan)
    if await held if inspect.isawaitable(held) else held:
        return OrphanReport(transaction_id=transaction_id, result="kept", state=orphan.state)
    # From here on it can't be adopted.
    marked_before = await commits.run(partial(_reports.begin_release, transaction_id=transaction_id))
    if marked_before is None:
        return OrphanReport(transaction_id=transaction_id, result="kept", state=orphan.state)
    state = orphan.state
    cancelling = marked_before
    try:
        state = (await read_status(transaction_id)).state
        if state is TransactionState.PREAUTHORIZED:
            cancelling = True
            await cancel(transaction_id)
            state = (await read_status(transaction_id)).state
    except JetpayError as error:
        # What may have been cancelled stays marked, so that nobody adopts it; the next run reads its status again.
        if not cancelling:
            await commits.run(partial(_reports.give_release_up, transaction_id=transaction_id))
        reason = "no such transaction for this account" if isinstance(error, NotFoundError) else error.message
        return OrphanReport(transaction_id=transaction_id, result="not_released", state=state, error=reason)
    released = state in {TransactionState.CANCELLED, TransactionState.FAILED}
    await commits.run(partial(_reports.end_release, transaction_id=transaction_id, state=state))
    if released:
        return OrphanReport(transaction_id=transaction_id, result="released", state=state)
    if not cancelling or state in CAPTURED_STATES:
        await commits.run(partial(_reports.give_release_up, transaction_id=transaction_id))
    return OrphanReport(
        transaction_id=transaction_id, result="not_released", state=state, error=f"its status says {state}"
    )
