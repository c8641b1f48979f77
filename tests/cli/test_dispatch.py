"""The commands are reached by ordinary imports: what bundles a program finds them, and ``--help`` stays quick."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jetpay_async._cli
from jetpay_async._cli import dispatch

FOLDER = Path(jetpay_async._cli.__file__).parent
COMMANDS = [function for _, function in inspect.getmembers(dispatch, inspect.isfunction)]


def test_no_import_has_a_computed_name() -> None:
    """No module of the command line imports another by a name that only running it shows."""
    computed = [
        f"{path.name}:{node.lineno}"
        for path in FOLDER.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name | ast.Attribute)
        and ast.unparse(node).rpartition(".")[2] in {"import_module", "__import__"}
    ]

    assert computed == []


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_there(command: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function imports a command that exists: it complains of the option, not of the import."""
    assert callable(command)

    with pytest.raises(TypeError, match="keyword"):
        command(no_such_option=1)


def test_help_takes_little_time() -> None:
    """``jetpay --help`` takes less than 120 ms of CPU beyond Python's own start."""
    command = """
import sys
from jetpay_async._cli import main
try:
    main(["--help"])
except SystemExit:
    pass
"""

    seconds = [
        min(
            float(
                subprocess.run(
                    [sys.executable, "-c", f"import resource\n{each}\nprint(sum(resource.getrusage(0)[:2]))"],
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout.splitlines()[-1]
            )
            for _ in range(5)
        )
        for each in ("", command)
    ]

    assert seconds[1] - seconds[0] < 0.12
