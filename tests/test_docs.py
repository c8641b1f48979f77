"""The documentation has a place for everything: what is made of the code is complete, and nothing leads nowhere."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import attrs
import pytest

from jetpay_async import JetpayError, RetryPolicy, TransactionState
from jetpay_async._cli.io.exit_codes import EXIT_STATUSES, ExitStatus
from jetpay_async._cli.parser import build_parser
from jetpay_async.sandbox import CARDS, DeliveryFaultKind, FaultKind
from jetpay_async.webhooks import Event
from tests.public_api import public_modules

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(
    path.relative_to(DOCS) for path in DOCS.rglob("*.md") if not {"generated", "_build", "compose"} & set(path.parts)
)


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _module("generate")
plots = _module("plots")


def _subclasses(root: type) -> set[type]:
    return {root}.union(*map(_subclasses, root.__subclasses__()))


def test_every_public_name_is_in_the_reference() -> None:
    """A name that users may import is on a page, whichever module it is imported from."""
    pages = [generate.module_page(importlib.import_module(name), title) for name, title in generate.MODULES.items()]
    directives = "".join([*pages, generate.further_page()])
    described = set(re.findall(r"^\.\. (?:auto|py:)\w+:: [\w.]+\.(\w+)$", directives, re.MULTILINE))

    public = {each for name in public_modules() for each in getattr(importlib.import_module(name), "__all__", ())}

    assert public - described == set()


def test_every_name_of_a_page_is_described() -> None:
    """A page has a directive for each name, and constants their text."""
    for name, title in generate.MODULES.items():
        module = importlib.import_module(name)
        page = generate.module_page(module, title)

        for public in module.__all__:
            assert re.search(rf"^\.\. (auto|py:)\w+:: {re.escape(name)}\.{public}$", page, re.MULTILINE)


def test_tables_are_complete() -> None:
    """Each error, state, fault, card, event and exit status that the code has is in the reference."""
    errors, events, states = generate.errors(), generate.events(), generate.states()

    assert [
        error.__name__
        for error in _subclasses(JetpayError)
        if error.__module__.startswith("jetpay_async")
        and not error.__name__.startswith("_")
        and error.__name__ not in errors
    ] == []
    assert [
        each.__name__
        for each in _subclasses(Event)
        if not each.__name__.startswith("_") and f".{each.__name__}>" not in events
    ] == []
    assert [state for state in TransactionState if states.count(f"| `{state}` |") != 3] == []
    assert [kind for kind in FaultKind if f"`{kind.value}`" not in generate.faults()] == []
    assert [kind for kind in DeliveryFaultKind if f"`{kind.value}`" not in generate.delivery_faults()] == []
    assert [number for number in CARDS if number not in generate.cards()] == []
    assert [status for status in ExitStatus if not re.search(rf"^  {status.value} ", EXIT_STATUSES, re.MULTILINE)] == []
    assert EXIT_STATUSES in generate.exit_statuses()


def test_only_what_is_proven_is_sent_again() -> None:
    """The table of a capture allows sending again once: "preauthorized", read in time, nothing seen before."""
    capture = generate.states().split("**Cancel")[0]

    assert [line.count("may be sent again") for line in capture.splitlines() if "`preauthorized`" in line] == [1]
    assert capture.count("may be sent again") == 1


def test_pages_are_written_once(tmp_path: Path) -> None:
    """A file that says the same is left as it is, so that a build that goes on reads only what changed."""
    (tmp_path / "docs/reference").mkdir(parents=True)
    shutil.copy(DOCS / "for-models.txt", tmp_path / "docs")
    folder = tmp_path / "docs/reference/generated"
    generate.write(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    generate.write(folder)

    assert len(before) == len(generate.MODULES) + 10 + len(generate.SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_the_list_for_models_has_every_page() -> None:
    """`llms.txt` leads to each page, by its title, and begins with what must not be done."""
    text = generate.pages_for_models(DOCS)

    assert re.findall(r"\]\((.+)\.html\)", text) != []
    assert {f"{link}.md" for link in re.findall(r"\]\((.+)\.html\)", text)} == set(map(str, PAGES)) - {"index.md"}
    assert "- [Your first payment](tutorial/first-payment.html)" in text
    assert "never call the same method" in text


def test_the_plots_are_those_of_the_published_results() -> None:
    """Each picture holds the numbers of `benchmarks/README.md`; `python docs/plots.py` draws them anew."""
    pictures = dict(plots.pictures())

    assert len(pictures) == 4
    assert [path.name for path, picture in pictures.items() if path.read_text(encoding="utf-8") != picture] == []


def test_a_plot_has_every_number_of_its_tables() -> None:
    """A curve has the first column of its row in each table, at the number of the title; none is left out."""
    text = "**Batch of 1,000, 64 in flight, uvloop; medians**\n\n| | CPU us |\n|---|--:|\n| bare pool | 1,234.5 |\n"
    text += "\n**Batch of 20, 64 in flight, uvloop; medians**\n\n| | CPU us |\n|---|--:|\n| bare pool | 2.5 |\n"

    figure = plots.curves(text)["cost-by-batch-size"]

    assert figure.lines["bare pool"] == {20: 2.5, 1000: 1234.5}
    published = plots.curves(plots.RESULTS.read_text(encoding="utf-8")).values()
    assert all(len(points) > 1 for each in published for points in each.lines.values())


def test_every_setting_is_in_the_reference() -> None:
    """Each argument of what takes settings is on the page, with what its docstring says of it."""
    page = (DOCS / "reference/settings.md").read_text(encoding="utf-8")

    for name in generate.SETTINGS:
        rows = [line.split(" | ") for line in generate.settings(name).splitlines()[2:]]
        assert rows
        assert [row[0] for row in rows if row[2].strip(" |") == ""] == [], name
        assert f"```{{include}} generated/settings-{name}.md\n" in page


def test_a_retry_policy_is_described_with_its_defaults() -> None:
    """A default is shown as it is written in code."""
    text = generate.settings("retry")

    assert [name for name in attrs.fields_dict(RetryPolicy) if f"| `{name}` | `" not in text] == []
    assert "| `resolve_after_timeout` | `60.0` | The same in every other case" in text


def test_every_command_and_option_is_in_the_reference() -> None:
    """The page has the help of each command, and the overview names each; exit statuses have a place of their own."""
    text = generate.commands()
    overview = (DOCS / "reference/command-line.md").read_text(encoding="utf-8")
    found = list(_commands(build_parser()))

    assert len(found) > 30
    for parser in found:
        section = text.partition(f"## {parser.prog}\n")[2].partition("\n## ")[0]
        assert [each for action in parser._actions for each in action.option_strings if each not in section] == []
        assert re.search(rf"`[^`\n]*\b{parser.prog.split()[-1]}( [^`\n]*)?`", overview), parser.prog
    assert "exit status" not in text


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for child in group.choices.values():
            yield from _commands(child)


def test_every_metric_and_attribute_is_in_the_reference() -> None:
    """What OpenTelemetry gets is named in the docstring that the page shows, and nothing else is."""
    pytest.importorskip("opentelemetry", reason="opentelemetry is not installed: pip install 'jetpay-async[otel]'")
    module = importlib.import_module("jetpay_async.opentelemetry")
    tree = ast.parse(inspect.getsource(module))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = {text for text in texts if re.fullmatch(r"(?:jetpay|http|error)\.[a-z_.]+", text)}
    described = set(re.findall(r"``((?:jetpay|http|error)\.[a-z_.]+)``", module.__doc__ or ""))

    assert len(named) > 15
    assert named == described
    assert "jetpay_async.opentelemetry" in (DOCS / "reference/metrics.md").read_text(encoding="utf-8")
