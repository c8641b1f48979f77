"""``jetpay webhooks dead-letters``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jetpay_async.webhooks import SqliteInbox
from tests.cli.conftest import CommandResult
from tests.webhooks.receiving import event, events

Jetpay = Callable[..., CommandResult]


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """An inbox with the dead letters 1 and 2, and the handled event 3."""
    path = tmp_path / "inbox.db"
    letters = (event(1), event(2, type="kyc.updated"))

    async def make() -> None:
        async with SqliteInbox(path, source="shop") as inbox:
            await inbox.lease((*letters, event(3)), owner="a", seconds=30)
            for letter in letters:
                await inbox.record_failure(letter, owner="a", error="ValueError: no order", max_attempts=1)
            async with inbox.handling(event(3), owner="a"):
                pass

    asyncio.run(make())
    return path


def dead_letters(jetpay: Jetpay, command: str, inbox: Path, *arguments: str) -> CommandResult:
    return jetpay("webhooks", "dead-letters", command, f"--inbox={inbox}", "--source=shop", *arguments)


def test_they_are_listed(jetpay: Jetpay, inbox: Path) -> None:
    """Each dead letter is a line with what failed, or a JSON document with everything that is known of it."""
    listed, as_json = dead_letters(jetpay, "list", inbox), dead_letters(jetpay, "list", inbox, "--json")

    assert (listed.status, as_json.status) == (0, 0)
    first, second = listed.out.splitlines()
    assert first.startswith("1  transactions.debits.created  t-1  1 attempts  ")
    assert first.endswith(" UTC  ValueError: no order")
    assert second.startswith("2  kyc.updated  -  ")
    documents = [json.loads(line) for line in as_json.out.splitlines()]
    assert [(document["event_id"], document["transaction_id"]) for document in documents] == [(1, "t-1"), (2, None)]
    assert documents[0]["error"] == "ValueError: no order"


def test_the_error_of_a_handler_stays_on_its_line(jetpay: Jetpay, inbox: Path) -> None:
    """What an exception says may be foreign: it forges no line, and a terminal obeys none of it."""

    async def fail() -> None:
        async with SqliteInbox(inbox, source="shop") as opened:
            await opened.lease((event(4),), owner="a", seconds=30)
            await opened.record_failure(event(4), owner="a", error="a\n5  paid\x1b[2J", max_attempts=1)

    asyncio.run(fail())

    assert r"UTC  a\n5  paid\x1b[2J" in dead_letters(jetpay, "list", inbox).out


@pytest.mark.parametrize("name", ["x" * 300, "none.db"])
def test_an_inbox_that_is_not_there(jetpay: Jetpay, name: str) -> None:
    """No inbox is made, whatever the name."""
    run = jetpay("webhooks", "dead-letters", "list", f"--inbox={name}")

    assert (run.status, run.err) == (2, f"jetpay: argument --inbox: there is no file {name}\n")


def test_none_is_said(jetpay: Jetpay, inbox: Path) -> None:
    """An inbox without dead letters says so, and as JSON writes nothing; another source is another inbox."""
    listed = jetpay("webhooks", "dead-letters", "list", f"--inbox={inbox}")
    as_json = jetpay("webhooks", "dead-letters", "list", f"--inbox={inbox}", "--json")

    assert (listed.status, listed.out) == (0, "")
    assert "there are no dead letters" in listed.err
    assert (as_json.status, as_json.out, as_json.err) == (0, "", "")


def test_replayed_ones_are_stored_again(jetpay: Jetpay, inbox: Path) -> None:
    """A replayed event waits in the inbox for a receiver."""
    done = dead_letters(jetpay, "replay", inbox, "1", "1")

    async def claim() -> object:
        async with SqliteInbox(inbox, source="shop") as opened:
            return await opened.claim(owner="b", seconds=30, limit=9, exclusive=True)

    assert (done.status, done.out) == (0, "")
    assert asyncio.run(claim()) == events(1)
    assert len(dead_letters(jetpay, "list", inbox).out.splitlines()) == 1


def test_discarded_ones_are_forgotten(jetpay: Jetpay, inbox: Path) -> None:
    """Discarded events are listed no more."""
    assert dead_letters(jetpay, "discard", inbox, "1", "2").status == 0
    assert dead_letters(jetpay, "list", inbox).out == ""


@pytest.mark.parametrize("command", ["replay", "discard"])
def test_a_wrong_id_changes_nothing(jetpay: Jetpay, inbox: Path, command: str) -> None:
    """If one of the ids is not that of a dead letter, none of them is touched."""
    rejected = dead_letters(jetpay, command, inbox, "1", "3")

    assert rejected.status == 2
    assert "not a dead letter: 3; nothing was changed" in rejected.err
    assert len(dead_letters(jetpay, "list", inbox).out.splitlines()) == 2


def test_a_missing_file_is_not_created(jetpay: Jetpay, tmp_path: Path) -> None:
    """A mistyped name is refused, and leaves no empty inbox behind."""
    rejected = dead_letters(jetpay, "list", tmp_path / "inbxo.db")

    assert rejected.status == 2
    assert "there is no file" in rejected.err
    assert list(tmp_path.iterdir()) == []
