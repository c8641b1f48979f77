"""The page about the sandbox says what is so."""

from __future__ import annotations

import asyncio
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from jetpay_async.sandbox import Fault, Sandbox, apply_scenario

from .calling import Caller

PAGE = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_scenario() -> None:
    """The scenario of the page is one."""
    (text,) = blocks("toml")
    sandbox = Sandbox()
    apply_scenario(sandbox, text)

    assert len(sandbox.faults.active) == len(tomllib.loads(text)["faults"]) == 1


@pytest.mark.asyncio
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_calls_of_the_control_api(caller: Caller) -> None:
    """Each curl line of the page succeeds, and the first one adds the fault that it says."""
    (script,) = (block for block in blocks("sh") if "/_sandbox/api" in block)
    script = script.replace("http://127.0.0.1:8087", caller.sandbox.url)
    script = script.replace("curl ", "curl --fail --silent --show-error --noproxy '*' ")
    before_the_end, reset = script.rsplit("\n", 2)[:2]

    for part in (before_the_end, "\n".join([*script.splitlines()[:2], reset])):
        shell = await asyncio.create_subprocess_exec("sh", "-euc", part, stdout=-1, stderr=-1)
        output = await shell.communicate()
        assert (shell.returncode, output[1]) == (0, b""), output
        kinds = [each.fault.kind for each in caller.sandbox.faults.active]
        assert kinds == ([] if part is not before_the_end else ["lose_reply_after"])


@pytest.mark.asyncio
async def test_the_table_of_paths(caller: Caller) -> None:
    """The page's table and the OpenAPI document list the same operations."""
    document = (await caller.call("GET", "/_sandbox/api/openapi.json")).document
    described = {
        (method.upper(), path.removeprefix("/_sandbox/api"))
        for path, methods in document["paths"].items()
        for method in methods
        if not path.startswith("/_sandbox/api/delivery_faults")
    }
    listed: set[tuple[str, str]] = set()
    for row in re.findall(r"^\| (`(?:GET|POST|PUT|DELETE).*?) \|", PAGE, re.MULTILINE):
        methods: list[str] = []
        for cell in re.findall(r"`([^`]+)`", row):
            *named, path = cell.replace(",", "").split()
            methods = named or methods
            listed |= {(method, path) for method in methods}

    assert listed == described


@pytest.mark.asyncio
async def test_the_options() -> None:
    """The page's table names every option of the command."""
    from jetpay_async._cli.parser import build_parser

    parser = build_parser()
    (commands,) = (action for action in parser._actions if action.dest == "command" or action.choices)
    assert isinstance(commands.choices, dict)
    options = {
        option
        for action in commands.choices["sandbox"]._actions
        for option in action.option_strings
        if option.startswith("--")
    }

    listed = re.findall(r"`(--[\w-]+)", PAGE.partition("## Options")[2].partition("##")[0])
    assert options - {"--help", "--verbose", "--log-level"} == set(listed)


def test_the_faults() -> None:
    """Each fault of the table is one."""
    rows = PAGE.partition("and its fault")[2].partition("## Control")[0]
    texts = [text for text in re.findall(r"`([a-z_]+(?: \w+=\S+)*)`", rows) if not text.startswith("status=")]

    assert len(texts) > 10
    for text in texts:
        Fault.from_text(text)
