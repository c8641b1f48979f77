"""The program as a process of its own: asked to stop, ended at once, killed; and what the next run makes of it."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.cli.conftest import KILLED_PROGRAM, QUICK_PROGRAM, CommandResult, reserve_many

Jetpay = Callable[..., CommandResult]

DEBITS = 120
BATCH = ("--ledger=c.db", "--batch=n1")
CAPTURE = ("capture", "debits.txt", *BATCH, "--concurrency=8", "--rate=50")


@pytest.fixture
def debit_ids(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Debits to capture, and their list in the working directory."""
    monkeypatch.chdir(tmp_path)
    debit_ids = reserve_many(sandbox, DEBITS)
    Path("debits.txt").write_text("\n".join(debit_ids))
    return debit_ids


@contextmanager
def started(program: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([*program, *CAPTURE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def finish(*arguments: str) -> None:
    """Run the same command to its end, without waiting for slots."""
    ran = subprocess.run(
        [*QUICK_PROGRAM, *CAPTURE, "--rate=9999", *arguments], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, f"n1: {DEBITS} of {DEBITS} captured, 0 rejected, 0 unknown\n"), (
        ran.stderr
    )


def stands(jetpay: Jetpay) -> dict[str, int]:
    progress: dict[str, int] = json.loads(jetpay("captures", "status", *BATCH, "--json").out)
    return progress


def times_captured(sandbox: Sandbox) -> list[int]:
    return [debit.captures for debit in sandbox.debits]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(jetpay: Jetpay, sandbox: Sandbox, debit_ids: list[str], number: signal.Signals) -> None:
    """On SIGINT and SIGTERM what is in flight comes to its end: nothing is in doubt, and the next run does the rest."""
    sandbox.faults.add(Fault(kind=FaultKind.SLOW_AFTER, route="capture", count=999, seconds=0.1))
    with started(QUICK_PROGRAM) as process:
        wait_until(lambda: sandbox.requests("capture") >= 20)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)

    done = sum(times_captured(sandbox))
    assert (process.returncode, out) == (130, "")
    assert f"jetpay: interrupted; {done} of {DEBITS} are done\nRun the same command again to continue;" in err
    assert 20 <= done < DEBITS
    assert (stands(jetpay)["captured"], stands(jetpay)["sending"]) == (done, 0)
    sandbox.faults.clear()
    finish()
    assert times_captured(sandbox) == [1] * DEBITS


def test_asked_twice(jetpay: Jetpay, sandbox: Sandbox, debit_ids: list[str]) -> None:
    """The second signal ends it at once, also when it hangs; requests in flight are resolved by the next run."""
    sandbox.faults.add(Fault(kind=FaultKind.STALL_AFTER, route="capture", count=4))
    with started(KILLED_PROGRAM) as process:
        wait_until(lambda: sandbox.requests("capture") >= 4)
        assert process.stderr is not None
        process.send_signal(signal.SIGINT)
        assert "Ctrl-C again ends at once" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert (process.returncode, out) == (130, "")
    assert err == "jetpay: ended at once; requests in flight are resolved when you run the same command again\n"
    assert stands(jetpay)["sending"] > 0
    finish()
    assert times_captured(sandbox) == [1] * DEBITS


@pytest.mark.endurance
def test_killed_again_and_again(sandbox: Sandbox, debit_ids: list[str]) -> None:
    """Killed at random moments while replies are lost, and run again until it is done: each debit is captured once."""
    chance = random.Random(4)
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture", probability=0.05))
    sandbox.faults.add(Fault(kind=FaultKind.SLOW_AFTER, route="capture", probability=0.3, seconds=0.2))
    for _ in range(3):
        before = sandbox.requests("capture")
        with started(KILLED_PROGRAM) as process:
            wait_until(lambda before=before: sandbox.requests("capture") > before + 5)  # type: ignore[misc] # bound now
            time.sleep(chance.random() * 0.2)
            process.kill()

    sandbox.faults.clear()
    finish("--out=o.csv")

    assert times_captured(sandbox) == [1] * DEBITS
    assert [line.split(",")[1] for line in Path("o.csv").read_text().splitlines()[1:]] == debit_ids


def test_a_pipe_goes_on_as_well(jetpay: Jetpay, sandbox: Sandbox, debit_ids: list[str]) -> None:
    """A list from stdin is read to its end first, and another pipe of the same debits goes on with it."""
    with (
        Path("debits.txt").open() as source,
        subprocess.Popen([*KILLED_PROGRAM, "capture", "-", *BATCH, "--rate=100"], stdin=source) as killed,
    ):
        wait_until(lambda: sandbox.requests("capture") > 5)
        killed.kill()
    with Path("debits.txt").open() as source:
        again = subprocess.run(
            [*QUICK_PROGRAM, "capture", "-", *BATCH], stdin=source, capture_output=True, text=True, check=False
        )

    assert again.returncode == 0, again.stderr
    assert times_captured(sandbox) == [1] * DEBITS
