"""``jetpay sandbox``: what a newcomer sees and tries."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """Its options reach the sandbox."""
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
        *("--public-url=http://sandbox:1", "--allow-host=one", "--allow-host=two"),
        *("--allow-callbacks=10.0.0.0/8", "--allow-callbacks=receiver", "--token=jetpay_sandbox_mine"),
        *("--fault=reset_before route=capture", "--webhook=http://127.0.0.1:9/one", "--webhook=http://127.0.0.1:9/two"),
    )

    assert run == CommandResult(130, "", "jetpay: interrupted\n")
    assert made[0].api_token in announced[0]
    assert options == {
        "host": "127.0.0.1",
        "port": 0,
        "seed": 5,
        "latency": 0.25,
        "delivery": package.DeliveryPolicy(speedup=7.0, callback_hosts=["10.0.0.0/8", "receiver"]),
        "public_url": "http://sandbox:1",
        "allowed_hosts": ["one", "two"],
        "api_token": "jetpay_sandbox_mine",
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
        pytest.param("--token=live", "a sandbox's token begins with jetpay_sandbox_, ", id="token"),
        pytest.param("--public-url=sandbox", "public_url: sandbox is not an http(s) URL", id="public URL"),
        pytest.param("--allow-callbacks=1.2.3.4/99", "'1.2.3.4/99' does not appear to be ", id="network"),
        pytest.param("--scenario=/nowhere/s.toml", "can't read /nowhere/s.toml: No such file ", id="no scenario"),
        pytest.param("--scenario=/dev/null/s.toml", "can't read /dev/null/s.toml: Not a directory", id="no folder"),
        pytest.param("--state=/nowhere/state", "can't write /nowhere/", id="state in no folder"),
    ],
)
def test_what_makes_no_sense_is_refused(jetpay: Jetpay, argument: str, message: str) -> None:
    """A fault or webhook that makes no sense is named, with status 2."""
    run = jetpay("sandbox", "--port=0", argument)

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith(f"jetpay: {message}")


def test_the_list_of_faults(jetpay: Jetpay) -> None:
    """Every fault and card number is explained, and nothing is served."""
    from jetpay_async.sandbox import CARDS, DeliveryFaultKind, FaultKind

    run = jetpay("sandbox", "--list-faults")

    text = " ".join(run.out.split())
    assert run.status == 0
    assert "`" not in text
    assert all(kind.value in text and kind.meaning for kind in (*FaultKind, *DeliveryFaultKind))
    assert all(f"{number} {card.meaning}" in text for number, card in CARDS.items())
    assert "stale_status A status as it was <seconds> ago, as a replica that lags reports it" in text


def test_a_scenario_that_makes_no_sense(jetpay: Jetpay, tmp_path: Path) -> None:
    """The file and the entry are named."""
    file = tmp_path / "scenario.toml"
    file.write_text("[[faults]]\nkind = 'none'\n")

    run = jetpay("sandbox", "--port=0", f"--scenario={file}")

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith(f"jetpay: {file}: faults, entry 1: kind: Invalid enum value 'none'")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"{}", "this is not a snapshot of a sandbox: ", id="no snapshot"),
        pytest.param(b"\xff", "not JSON: ", id="no JSON"),
        pytest.param(None, "Is a directory", id="folder"),
    ],
)
def test_a_state_that_makes_no_sense(jetpay: Jetpay, tmp_path: Path, content: bytes | None, message: str) -> None:
    """A file that keeps no state is named, and stays as it is."""
    file = tmp_path / "state"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)

    run = jetpay("sandbox", "--port=0", f"--state={file}")

    assert (run.status, run.out) == (2, "")
    assert str(file) in run.err
    assert message in run.err
    assert content is None or file.read_bytes() == content


@pytest.fixture
def terminate_when(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """Send this process a SIGTERM as soon as a condition holds, while it is handled."""
    threads: list[threading.Thread] = []

    def terminate_when(holds: Callable[[], bool]) -> None:
        def wait() -> None:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and not holds():
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGTERM)

        threads.append(threading.Thread(target=wait))
        threads[-1].start()

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield terminate_when
    for thread in threads:
        thread.join()
    signal.signal(signal.SIGTERM, before)


def call(announced: str, path: str, body: object) -> int:
    """Call what was announced, with its token; return the status."""
    base, token = re.findall(r"export JETPAY_\w+=(\S+)", announced)
    request = urllib.request.Request(
        base + path,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
        return int(response.status)


def test_a_container(
    jetpay: Jetpay,
    terminate_when: Callable[[Callable[[], bool]], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """SIGTERM ends it with 0; logs are JSON; a restart goes on with the state of the file and the same token."""
    from jetpay_async._cli.commands import sandbox as command

    texts: list[str] = []
    monkeypatch.setattr(command, "write_output", texts.append)
    (tmp_path / "scenario.toml").write_text('[[payers]]\ncontact_id = "mine"\ncredit_card_id = "card"\n')
    files = (f"--state={tmp_path / 'state'}", f"--scenario={tmp_path / 'scenario.toml'}")
    body = {"amount": 5, "to_bank_account_id": "bank_789", "statement": "Deposit"}
    path = "/contact/mine/creditcards/card/preauthorize"
    runs = []

    for _ in range(2):
        texts.clear()
        terminate_when(lambda: bool(texts) and call(texts[0], path, body) == 200)
        run = jetpay("sandbox", "-v", "--log-format=json", "--port=0", "--host=0.0.0.0", *files)
        assert (run.status, run.out) == (0, "")
        runs.append((re.findall(r"TOKEN=(\S+)", texts[0]), [json.loads(line) for line in run.err.splitlines()]))

    (token, (warning, first)), (same_token, (_, second)) = runs
    assert token == same_token
    assert warning["message"].startswith("warning: listening on 0.0.0.0; who reaches this port ")
    assert first["seconds"] >= 0
    assert {name: first[name] for name in ("event", "message", "method", "path", "route", "status", "fault")} == {
        "event": "request",
        "message": f"POST {path}: 200",
        "method": "POST",
        "path": path,
        "route": "preauthorize",
        "status": 200,
        "fault": None,
    }
    assert [each["request_id"] for each in (first, second)] == ["req_00000001", "req_00000002"]


def test_deliveries_are_logged(
    jetpay: Jetpay, terminate_when: Callable[[Callable[[], bool]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt at a delivery is logged with its error; nothing is logged without -v."""
    from jetpay_async._cli.commands import sandbox as command

    texts: list[str] = []
    monkeypatch.setattr(command, "write_output", texts.append)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/hook"
    body = {"amount": 5, "to_bank_account_id": "bank_789", "statement": "Deposit"}
    path = "/contact/contact_123/creditcards/cc_456/charge"
    attempted = threading.Event()

    class Watched(command.Sandbox):  # type: ignore[name-defined,misc] # as imported there
        def log_to(self, write: Callable[..., None]) -> None:
            super().log_to(lambda entry: (write(entry), entry["event"] == "delivery" and attempted.set()))

    monkeypatch.setattr(command, "Sandbox", Watched)
    terminate_when(lambda: bool(texts) and call(texts[0], path, body) == 200 and attempted.wait(20))
    run = jetpay("sandbox", "-v", "--port=0", f"--webhook={url}", "--speedup=1000000")

    assert run.status == 0
    assert f"jetpay: info: POST {path}: 200\n" in run.err
    assert f"jetpay: info: delivery to {url}: ClientConnectorError\n" in run.err


def test_a_signal_wakes_the_loop(
    jetpay: Jetpay, terminate_when: Callable[[Callable[[], bool]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not lost if it comes just before the loop waits: it writes to what the loop waits for."""
    from jetpay_async._cli.commands import sandbox as command

    wakeup: list[int] = []

    def look(_: str) -> None:
        found = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(found)
        wakeup.append(found)

    monkeypatch.setattr(command, "write_output", look)
    terminate_when(lambda: bool(wakeup))

    assert jetpay("sandbox", "--port=0").status == 0
    assert wakeup != [-1]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_tokens_are_random(
    jetpay: Jetpay, terminate_when: Callable[[Callable[[], bool]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs have two tokens, each printed once."""
    from jetpay_async._cli.commands import sandbox as command

    tokens = set()
    for _ in range(2):
        texts: list[str] = []
        monkeypatch.setattr(command, "write_output", texts.append)
        terminate_when(lambda texts=texts: bool(texts))  # type: ignore[misc] # bound now
        assert jetpay("sandbox", "--port=0").status == 0
        (token,) = re.findall(r"jetpay_sandbox_\S+", texts[0])
        tokens.add(token)

    assert len(tokens) == 2


def test_a_port_that_is_taken(jetpay: Jetpay) -> None:
    """A taken port is reported in one line, with status 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        run = jetpay("sandbox", f"--port={port}")

    assert (run.status, run.out) == (2, "")
    assert run.err.startswith(f"jetpay: can't listen on 127.0.0.1:{port}: ")
    assert run.err.count("\n") == 1
