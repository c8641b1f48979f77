"""``jetpay sandbox``: what a newcomer sees and tries."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.cli.conftest import CommandResult

Jetpay = Callable[..., CommandResult]


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The command as a process of its own, and what it announced."""
    with subprocess.Popen(
        [sys.executable, "-m", "jetpay_async._cli", "sandbox", "--port=0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        try:
            while not lines or '"statement"' not in lines[-1]:
                lines.append(process.stdout.readline())
                assert lines[-1], process.stderr and process.stderr.read()
            yield process, lines
        finally:
            process.send_signal(signal.SIGINT)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the announced line calls curl")
def test_what_it_announces_works_and_ctrl_c_ends_it() -> None:
    """The exports and the curl line can be pasted into a shell; Ctrl-C ends it with 130 and no traceback."""
    with serving() as (process, lines):
        exports = [line for line in lines if line.startswith("export ")]
        start = next(number for number, line in enumerate(lines) if line.startswith("curl "))
        script = "".join([*exports, *lines[start:]]).replace("curl ", "curl --silent ", 1)

        answer = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)

        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert json.loads(answer.stdout)["transaction_state"] == "preauthorized"
    assert (process.returncode, err) == (130, "jetpay: interrupted\n")
    assert "Traceback" not in out


def test_it_ends_with_ctrl_c_in_this_process(
    jetpay: Jetpay, interrupt_when: Callable[[Callable[[], bool]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options reach the sandbox: address, seed, latency, faults, webhooks and their sample."""
    from jetpay_async import sandbox as package
    from jetpay_async._cli.commands import sandbox as command

    made: list[package.Sandbox] = []
    options: dict[str, object] = {}

    class Watched(package.Sandbox):
        def __init__(self, **given: object) -> None:
            super().__init__(**given)  # type: ignore[arg-type] # as given
            options.update(given)
            made.append(self)

    monkeypatch.setattr(command, "Sandbox", Watched)
    announced: list[str] = []
    monkeypatch.setattr(command, "write_output", announced.append)
    interrupt_when(lambda: bool(announced))

    run = jetpay(
        *("sandbox", "--host=127.0.0.1", "--port=0", "--seed=5", "--latency=0.25", "--speedup=7"),
        *("--fault=reset_before route=capture", "--webhook=http://127.0.0.1:9/one", "--webhook=http://127.0.0.1:9/two"),
    )

    assert run == CommandResult(130, "", "jetpay: interrupted\n")
    assert made[0].api_token in announced[0]
    assert options == {
        "host": "127.0.0.1",
        "port": 0,
        "seed": 5,
        "latency": 0.25,
        "delivery": package.DeliveryPolicy(speedup=7.0),
    }
    assert made[0].faults.match(lambda fault: fault.route == "capture") is not None
    with pytest.raises(ValueError, match="one"):
        made[0].add_webhook("http://127.0.0.1:9/one")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        pytest.param(
            "--fault=lose_everything",
            "argument --fault: 'lose_everything' is not a valid FaultKind; the kinds are lose_reply_before, ",
            id="fault",
        ),
        pytest.param("--fault=", "argument --fault: '' is not a valid FaultKind; the kinds are ", id="no fault"),
        pytest.param("--webhook=nowhere", "argument --webhook: nowhere: ", id="webhook"),
    ],
)
def test_what_makes_no_sense_is_refused(jetpay: Jetpay, argument: str, message: str) -> None:
    """A fault or webhook that makes no sense is named, with status 2."""
    run = jetpay("sandbox", "--port=0", argument)

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith(f"jetpay: {message}")


def test_a_port_that_is_taken(jetpay: Jetpay) -> None:
    """A taken port is reported in one line, with status 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        run = jetpay("sandbox", f"--port={port}")

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith(f"jetpay: can't listen on 127.0.0.1:{port}: ")
    assert run.err.count("\n") == 1
