"""What the library logs: where it goes if nobody asked for it, and what each record is about."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from unittest.mock import patch

import pytest

from jetpay_async import JetpayClient, OutcomeUnknownError, RetryPolicy
from jetpay_async._core.log import logger
from tests import loopback
from tests.ledger.scenario import Scenario, answers, debits, simulate
from tests.loopback import DEBIT_ID, Loopback

QUICK = RetryPolicy(max_attempts=2, base_delay=0.01, resolve_after=0.05, resolve_after_timeout=0.05)


@contextmanager
def nothing_configured() -> Iterator[None]:
    """Logging as in a program that never mentions it; pytest adds its own handlers when a test begins."""
    with patch.object(logging.getLogger(), "handlers", []):
        yield


def connect(server: Loopback) -> JetpayClient:
    return JetpayClient("a-token", base_url=server.url, retry=QUICK, timeout=0.5)


def unanswered_preauthorization() -> Loopback:
    """A server that answers one preauthorization by a page of a proxy."""
    return Loopback(scripts={"preauthorize": [loopback.replies(502, loopback.HTML, X_Request_ID="r-7")]})


async def preauthorize(server: Loopback) -> OutcomeUnknownError:
    async with connect(server) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.preauthorize(
                contact_id="c", credit_card_id="cc", amount="1.00", to_bank_account_id="b", statement="s"
            )
    return caught.value


def test_the_logger_has_no_handler() -> None:
    """Not even one that does nothing: it would keep Python's last resort from writing what must not be missed."""
    assert logger.name == "jetpay_async"
    assert logger.logger.handlers == []


@pytest.mark.asyncio
async def test_an_unknown_outcome_is_seen_without_any_logging(capsys: pytest.CaptureFixture[str]) -> None:
    """Where no logging is configured, stderr gets the operation, the cause, the status and the request id."""
    async with unanswered_preauthorization().listen() as server:
        with nothing_configured():
            await preauthorize(server)

    written = capsys.readouterr().err
    assert written.startswith("outcome unknown: ")
    for part in ("operation=preauthorize", "HTTP 502", "status=502", "request_id=r-7", "amount='1.00'"):
        assert part in written


@pytest.mark.asyncio
async def test_what_goes_well_is_not_seen_without_any_logging(capsys: pytest.CaptureFixture[str]) -> None:
    """A library says nothing of what it does, unless asked."""
    async with Loopback().listen() as server:
        with nothing_configured():
            async with connect(server) as client:
                await client.capture(DEBIT_ID)

    assert capsys.readouterr().err == ""


@pytest.mark.asyncio
async def test_a_record_of_an_unknown_outcome_has_fields(caplog: pytest.LogCaptureFixture) -> None:
    """A search for a debit, a status or a request id needs no pattern over messages."""
    async with unanswered_preauthorization().listen() as server:
        error = await preauthorize(server)

    (record,) = [each for each in caplog.records if each.name == "jetpay_async"]
    fields = vars(record)
    assert record.levelname == "WARNING"
    assert {name: fields[name] for name in ("operation", "debit_id", "reason", "status", "request_id")} == {
        "operation": "preauthorize",
        "debit_id": None,
        "reason": error.reason,
        "status": 502,
        "request_id": "r-7",
    }


@pytest.mark.asyncio
async def test_an_attempt_is_logged_with_what_follows(caplog: pytest.LogCaptureFixture) -> None:
    """An operator reads the debit, the attempt, the status, the request id, and what the client does next."""
    caplog.set_level("INFO", logger="jetpay_async")
    script = [loopback.replies(503, {"detail": "busy"}, X_Request_ID="r-8")]
    async with Loopback(scripts={"capture": script}).listen() as server, connect(server) as client:
        await client.capture(DEBIT_ID)

    message = caplog.records[0].getMessage()
    assert message.startswith(f"capture {DEBIT_ID}: attempt 1 got no usable response (HTTP 503")
    assert "request id r-8" in message
    assert "next: read the transaction's status" in message
    assert vars(caplog.records[0])["debit_id"] == DEBIT_ID
    assert vars(caplog.records[0])["status"] == 503


@pytest.mark.asyncio
async def test_a_hook_that_fails_is_logged_with_the_debit(caplog: pytest.LogCaptureFixture) -> None:
    """The traceback of the user's code, and the operation that it was called for."""

    def fail(_: object) -> None:
        raise ZeroDivisionError

    async with Loopback(
        scripts={"capture": [loopback.silence] * 2, "status": [loopback.silence] * 9}
    ).listen() as server:
        async with JetpayClient(
            "a-token", base_url=server.url, retry=QUICK, timeout=0.3, on_unknown=fail, on_operation=fail
        ) as client:
            with pytest.raises(OutcomeUnknownError):
                await client.capture(DEBIT_ID)

    failed = {record.getMessage(): vars(record) for record in caplog.records if record.exc_info}
    assert set(failed) == {f"on_unknown failed for capture {DEBIT_ID}", f"on_operation failed for capture {DEBIT_ID}"}
    assert {(fields["operation"], fields["debit_id"]) for fields in failed.values()} == {("capture", DEBIT_ID)}


def test_a_run_names_its_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Why a run of a ledger stops is logged with the batch that is left."""
    scenario = Scenario(str(tmp_path / "captures.db"))
    scenario.api.script["debit_0"] = [answers(401, {"detail": "Not authenticated"})]

    async def main() -> None:
        async with scenario.captures() as captures:
            batch = await captures.submit("2026-11-22", debits(1))
            with pytest.raises(Exception, match="stopped"):
                await batch.wait()

    simulate(main())
    (record,) = [record for record in caplog.records if record.getMessage().startswith("capturing stops")]
    assert vars(record)["batch"] == "2026-11-22"
    assert "401" in vars(record)["reason"]


class BrokenFilter(logging.Filter):
    """A program's own filter, with a fault."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise ZeroDivisionError(record.name)


@pytest.fixture
def broken_filter() -> Iterator[None]:
    broken = BrokenFilter()
    logger.logger.addFilter(broken)
    yield
    logger.logger.removeFilter(broken)


@pytest.mark.asyncio
@pytest.mark.usefixtures("broken_filter")
async def test_a_filter_that_raises_replaces_no_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    """The caller gets the unknown outcome, and its hook too; the filter's fault is seen on stderr."""
    reported: list[OutcomeUnknownError] = []
    scripts = {"capture": [loopback.silence] * 2, "status": [loopback.silence] * 9}
    async with Loopback(scripts=scripts).listen() as server:
        async with JetpayClient(
            "a-token", base_url=server.url, retry=QUICK, timeout=0.3, on_unknown=reported.append
        ) as client:
            with pytest.raises(OutcomeUnknownError) as caught:
                await client.capture(DEBIT_ID)

    assert reported == [caught.value]
    assert "ZeroDivisionError: jetpay_async" in capsys.readouterr().err


@pytest.mark.usefixtures("broken_filter")
def test_a_filter_that_raises_ends_no_batch(tmp_path: Path) -> None:
    """A debit that is in doubt is resolved, and the batch ends, whatever becomes of what is logged about it."""
    scenario = Scenario(str(tmp_path / "captures.db"))
    scenario.api.script["debit_1"] = [answers(502, {"detail": "Bad gateway"})]

    async def main() -> int:
        async with scenario.captures() as captures:
            batch = await captures.submit("2026-11-22", debits(3))
            return (await batch.wait()).captured

    assert simulate(main()) == 3


@pytest.mark.usefixtures("broken_filter")
@pytest.mark.parametrize("stream", [None, "closed"])
def test_a_fault_of_logging_that_nobody_can_see(stream: str | None, tmp_path: Path) -> None:
    """Without a stderr, or with one that is closed, logging does nothing."""
    closed: TextIO | None = None
    if stream is not None:
        closed = (tmp_path / stream).open("w")
        closed.close()
    with patch("sys.stderr", closed):
        logger.warning("nobody reads this")


@pytest.mark.usefixtures("broken_filter")
def test_a_program_may_silence_faults_of_logging(capsys: pytest.CaptureFixture[str]) -> None:
    """As for logging's own handlers: `logging.raiseExceptions` says whether such a fault is shown."""
    with patch("logging.raiseExceptions", new=False):
        logger.warning("nobody reads this")

    assert capsys.readouterr().err == ""


def test_a_record_names_the_line_that_logged_it(caplog: pytest.LogCaptureFixture) -> None:
    """Not the line of the logger that keeps faults away."""
    logger.warning("here")
    logger.info("a level that is off")
    logger.exception("there", exc_info=ZeroDivisionError("a fault"))

    assert [record.funcName for record in caplog.records] == ["test_a_record_names_the_line_that_logged_it"] * 2
    assert [record.filename for record in caplog.records] == ["test_logging.py"] * 2
    assert caplog.records[1].exc_info is not None
