"""``jetpay completion``: what the shells are offered, and that they ask for it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import CommandResult

    Jetpay = Callable[..., CommandResult]


# As the shell calls it when Tab is pressed after the words; zsh's own functions only work within its editor.
SHELLS = {
    "bash": """
        eval "$(jetpay completion bash)"
        COMP_WORDS=(jetpay {words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _jetpay; printf '%s\\n' "${{COMPREPLY[@]}}"
    """,
    "zsh": """
        compdef() {{ }}; compadd() {{ shift; print -l -- "$@" }}; _files() {{ print files }}
        eval "$(jetpay completion zsh)"
        words=(jetpay {words}); CURRENT=${{#words}}
        _jetpay
    """,
    "fish": """
        jetpay completion fish | source
        complete -C "jetpay {words}"
    """,
}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param([], {"capture", "captures", "status", "completion"}, id="commands"),
        pytest.param([""], {"capture", "captures", "status", "completion"}, id="an empty word"),
        pytest.param(["cap"], {"capture", "captures"}, id="the beginning of a command"),
        pytest.param(["captures", "re"], {"resolve", "retry-rejected"}, id="a command of a group"),
        pytest.param(["webhooks", "dead-letters", ""], {"list", "replay", "discard"}, id="of a group in a group"),
        pytest.param(["capture", "--ac"], {"--account", "--accept-rejections"}, id="options"),
        pytest.param(["capture", "x.csv", "--led"], {"--ledger"}, id="options after a file"),
        pytest.param(["capture", "--dry-run", "--led"], {"--ledger"}, id="options after a switch"),
        pytest.param(["captures", "list", "--state", ""], {"pending", "captured", "unknown"}, id="values"),
        pytest.param(["captures", "list", "--state", "cap"], {"captured"}, id="the beginning of a value"),
        pytest.param(["captures", "list", "--state", "captured", "--led"], {"--ledger"}, id="after a value"),
        pytest.param(["captures", "list", "--state=cap"], {"--state=captured"}, id="a value after its sign, zsh"),
        pytest.param(["captures", "list", "--state", "=", "cap"], {"captured"}, id="a value after its sign, bash"),
        pytest.param(["captures", "list", "--state=captured", "--led"], {"--ledger"}, id="after such a value"),
        pytest.param(["status", "--log-format", ""], {"text", "json"}, id="values of a common option"),
        pytest.param(["completion", ""], {"bash", "zsh", "fish"}, id="the shells"),
    ],
)
def test_what_can_follow(jetpay: Jetpay, words: list[str], expected: set[str]) -> None:
    """Commands, options and values, as far as they are typed."""
    run = jetpay("completion", "words", "--", *words)

    found = run.out.splitlines()
    assert (run.status, run.err) == (0, "")
    assert expected <= set(found)
    assert all(word.startswith(words[-1] if words else "") for word in found)
    assert found == sorted(found)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["capture", ""], id="a file"),
        pytest.param(["capture", "x.csv", "--out", ""], id="a value of the user's own"),
        pytest.param(["capture", "--ledger", "--le"], id="a value that looks like an option"),
        pytest.param(["captures", "list", "--state", "none"], id="no such value"),
        pytest.param(["captures", "list", "--out="], id="a value of the user's own after its sign"),
        pytest.param(["captures", "list", "--none="], id="no such option"),
        pytest.param(["none", "--x", "none"], id="no such command"),
    ],
)
def test_where_nothing_is_offered(jetpay: Jetpay, words: list[str]) -> None:
    """The shell offers files there."""
    assert jetpay("completion", "words", "--", *words).out == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_is_written(jetpay: Jetpay, shell: str) -> None:
    """It is all that stdout gets."""
    run = jetpay("completion", shell)

    assert (run.status, run.err) == (0, "")
    assert "jetpay completion words -- " in run.out


def test_an_unknown_shell(jetpay: Jetpay) -> None:
    """The choice is shown."""
    run = jetpay("completion", "tcsh")

    assert run.status == 2
    assert "'tcsh'" in run.err


def test_it_is_quick() -> None:
    """It runs whenever Tab is pressed, and so imports no more than the help does."""
    code = """
import sys
from jetpay_async._cli import main
main(["completion", "words", "--", "cap"])
print(sorted({"aiohttp", "asyncio", "attrs", "cryptography", "msgspec", "rich", "sqlite3"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ran.stdout.splitlines() == ["capture", "captures", "[]"]


@pytest.fixture
def on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the shells find the program, and nothing of the user's."""
    script = tmp_path / "jetpay"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m jetpay_async._cli "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param("captures re", ["resolve", "retry-rejected"], id="commands"),
        pytest.param("capture --ac", ["--accept-rejections", "--account"], id="options"),
        pytest.param("captures list --state cap", ["captured"], id="values"),
    ],
)
@pytest.mark.usefixtures("on_the_path")
def test_a_shell_completes(shell: str, words: str, expected: list[str], tmp_path: Path) -> None:
    """The script is valid, and passes on what is typed."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")

    ran = subprocess.run(
        [shell, "-c", SHELLS[shell].format(words=words)], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert (ran.stdout.splitlines(), ran.stderr) == (expected, "")
