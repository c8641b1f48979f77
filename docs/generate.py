"""Pages of the reference that are made of the code's own data, so that they can't say anything else.

``docs/conf.py`` calls `write` before each build; the files are in no commit.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jetpay_async._core.operations import StatusMapping

PACKAGE = Path(__file__).parents[1] / "jetpay_async"

MODULES = {
    "jetpay_async": "The client",
    "jetpay_async.webhooks": "Webhooks",
    "jetpay_async.webhooks.aiohttp": "Webhooks with aiohttp",
    "jetpay_async.webhooks.asgi": "Webhooks with ASGI",
    "jetpay_async.ledger": "Ledgers",
    "jetpay_async.procrastinate": "Captures through procrastinate",
    "jetpay_async.opentelemetry": "OpenTelemetry",
    "jetpay_async.testing": "The pytest plugin",
    "jetpay_async.sandbox": "The sandbox",
}

# What takes settings, by the name under which the page has them.
SETTINGS = {
    "client": ("jetpay_async", "JetpayClient"),
    "retry": ("jetpay_async", "RetryPolicy"),
    "capture-many": ("jetpay_async", "JetpayClient.capture_many"),
    "durable-captures": ("jetpay_async", "JetpayClient.durable_captures"),
    "procrastinate": ("jetpay_async.procrastinate", "durable_captures"),
    "ledger": ("jetpay_async.ledger", "Ledger"),
    "opentelemetry": ("jetpay_async.opentelemetry", "OpenTelemetry"),
    "verifier": ("jetpay_async.webhooks", "WebhookVerifier"),
    "keys": ("jetpay_async.webhooks", "RemoteKeySet"),
    "router": ("jetpay_async.webhooks", "EventRouter"),
    "receiver": ("jetpay_async.webhooks", "WebhookReceiver"),
    "sqlite-inbox": ("jetpay_async.webhooks", "SqliteInbox"),
    "postgres-inbox": ("jetpay_async.webhooks", "PostgresInbox"),
    "missing-events": ("jetpay_async.webhooks", "MissingEventReplay"),
    "sandbox": ("jetpay_async.sandbox", "Sandbox"),
    "deliveries": ("jetpay_async.sandbox", "DeliveryPolicy"),
}

GROUPS = {
    "Tutorial": "tutorial/*.md",
    "How-to": "*.md",
    "Reference": "reference/*.md",
    "Explanation": "explanation/*.md",
}


def write(folder: Path) -> None:
    """Write all of them into a folder. A file that says the same already stays as it is, for builds that go on."""
    folder.mkdir(exist_ok=True)
    pages = {
        **{f"{name}.rst": module_page(importlib.import_module(name), title) for name, title in MODULES.items()},
        "further.rst": further_page(),
        "llms.txt": pages_for_models(folder.parents[1]),
        "errors.md": errors(),
        "states.md": states(),
        "faults.md": faults(),
        "delivery-faults.md": delivery_faults(),
        "cards.md": cards(),
        "events.md": events(),
        "exit-statuses.md": exit_statuses(),
        "commands.md": commands(),
        **{f"settings-{name}.md": settings(name) for name in SETTINGS},
    }
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def module_page(module: ModuleType, title: str) -> str:
    """Return the page of a module's public names, in reStructuredText: that is what docstrings are written in."""
    parts = [title, "=" * len(title), "", f".. automodule:: {module.__name__}", "   :no-members:", ""]
    parts += [" · ".join(f"`{name} <{module.__name__}.{name}>`" for name in module.__all__), ""]
    return "\n".join([*parts, *_described(module, module.__all__)])


def further_page() -> str:
    """Return the page of the public names that the other pages don't have, in reStructuredText."""
    seen = {id(getattr(importlib.import_module(name), public)) for name in MODULES for public in _names(name)}
    parts = [
        "Further names",
        "=============",
        "",
        "Types that signatures name, and what one's own inbox is made of.",
        "",
    ]
    for found in sorted(pkgutil.walk_packages([str(PACKAGE)], "jetpay_async."), key=lambda found: found.name):
        name = found.name
        if any(part.startswith("_") or part == "migrations" for part in name.split(".")[1:]):
            continue
        module = importlib.import_module(name)
        left = [public for public in _names(name) if id(getattr(module, public)) not in seen]
        seen.update(id(getattr(module, public)) for public in left)
        parts += [f".. py:currentmodule:: {name}", "", *_described(module, left)]
    return "\n".join(parts)


def _names(module: str) -> Sequence[str]:
    names: Sequence[str] = getattr(importlib.import_module(module), "__all__", ())
    return names


def _described(module: ModuleType, names: Iterable[str]) -> Sequence[str]:
    parts: list[str] = []
    for name in names:
        if _directive(module, name) == "autodata":
            parts += _data(module, name)
            continue
        parts += [f".. {_directive(module, name)}:: {module.__name__}.{name}", *_options(module, name), ""]
    return parts


def _directive(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isfunction(value) else "autodata"


def _data(module: ModuleType, name: str) -> Sequence[str]:
    """Describe a constant or an alias: autodoc knows the text below it only in the module that it is assigned in."""
    value = getattr(module, name)
    text = _texts_of_assignments().get(name, "")
    shown = [f"   :value: {value!r}"] if isinstance(value, str) else []
    return (f".. py:data:: {module.__name__}.{name}", *shown, "", textwrap.indent(text, "   "), "")


@cache
def _texts_of_assignments() -> dict[str, str]:
    """Return the strings below assignments at the top level of the package's modules, by the name that is assigned."""
    found: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for statement, below in pairwise(body):
            if isinstance(statement, ast.Assign):
                target = statement.targets[0]
            elif isinstance(statement, ast.AnnAssign):
                target = statement.target
            else:
                continue
            if isinstance(target, ast.Name) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[target.id] = inspect.cleandoc(str(below.value.value))
    return found


def _options(module: ModuleType, name: str) -> Sequence[str]:
    if inspect.isclass(getattr(module, name)):
        return ("   :members:", "   :undoc-members:", "   :show-inheritance:")
    return ()


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def first_sentence(value: object) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "`")


def pages_for_models(docs: Path) -> str:
    """Return ``llms.txt``: what a language model has to know, and every page by its title."""
    parts = [(docs / "for-models.txt").read_text(encoding="utf-8")]
    for group, pattern in GROUPS.items():
        pages = [path for path in sorted(docs.glob(pattern)) if path.name != "index.md"]
        titles = {path: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in pages}
        links = [f"- [{titles[path]}]({path.relative_to(docs).with_suffix('.html').as_posix()})" for path in pages]
        parts += [f"\n## {group}\n", *links]
    return "\n".join(parts) + "\n"


def errors() -> str:
    """Return every error, what it says of the operation, and whether calling again is safe."""
    import jetpay_async  # noqa: PLC0415 - conf.py puts it on the path

    root = jetpay_async.JetpayError
    found: list[tuple[int, type[Any]]] = []

    def descend(error: type[Any], depth: int) -> None:
        found.append((depth, error))
        for child in sorted(error.__subclasses__(), key=lambda each: each.__name__):
            if not child.__name__.startswith("_") and child.__module__.startswith("jetpay_async"):
                descend(child, depth + 1)

    for name in MODULES:
        importlib.import_module(name)
    descend(root, 0)
    return table(
        ("error", "`outcome`", "meaning"),
        [
            (f"{'· ' * depth}{{py:obj}}`{_public_name(error)}`", f"`{error.outcome.value}`", first_sentence(error))
            for depth, error in found
        ],
    )


def _public_name(error: type[Any]) -> str:
    for module in MODULES:
        if error.__name__ in importlib.import_module(module).__all__:
            return f"{error.__name__} <{module}.{error.__name__}>"
    return error.__name__


def states() -> str:
    """Return what each state of a transaction proves about an operation whose response was lost."""
    from jetpay_async._core.operations import CANCEL, CAPTURE, PREAUTHORIZE  # noqa: PLC0415 - conf.py puts it on the path
    from jetpay_async._core.resolve import Proof, prove  # noqa: PLC0415 - likewise
    from jetpay_async.models import TransactionState  # noqa: PLC0415 - likewise

    meanings = {
        Proof.DONE: "**done**",
        Proof.ACCEPTED: "accepted",
        Proof.OVER: "**not done**, and never will be",
        Proof.NOT_DONE: "**not done**: it may be sent again",
        Proof.NOTHING: "nothing",
    }
    parts = []
    for operation in (CAPTURE, CANCEL, PREAUTHORIZE):
        mapping: StatusMapping[Any] | None = operation.states
        if mapping is None:
            raise TypeError(f"{operation.name} has no states")
        rows = []
        for state in (*TransactionState, TransactionState("any other")):
            proofs = (
                prove(mapping, state, true_at=1.0, certain_from=0.0),
                prove(mapping, state, true_at=1.0, certain_from=2.0),
                prove(mapping, state, true_at=None, certain_from=0.0),
                prove(mapping, state, true_at=1.0, certain_from=0.0, seen_state=TransactionState("processing")),
            )
            rows.append((f"`{state}`" if state != "any other" else "any other", *(meanings[proof] for proof in proofs)))
        columns = ("the status says", "read in time", "read too early", "from a cache here", "after a later state")
        parts.append(f"**{operation.name.replace('_', ' ').capitalize()}**\n\n{table(columns, rows)}")
    return "\n".join(parts)


def faults() -> str:
    """Return every fault of a request."""
    from jetpay_async.sandbox import FaultKind  # noqa: PLC0415 - conf.py puts it on the path

    return table(("kind", "what happens"), [(f"`{kind.value}`", kind.meaning.replace("``", "`")) for kind in FaultKind])


def delivery_faults() -> str:
    """Return every fault of a delivery."""
    from jetpay_async.sandbox import DeliveryFaultKind  # noqa: PLC0415 - conf.py puts it on the path

    rows = [(f"`{kind.value}`", kind.meaning.replace("``", "`")) for kind in DeliveryFaultKind]
    return table(("kind", "what happens"), rows)


def cards() -> str:
    """Return every card number with a meaning."""
    from jetpay_async.sandbox import CARDS  # noqa: PLC0415 - conf.py puts it on the path

    return table(("card number", "what happens"), [(f"`{number}`", card.meaning) for number, card in CARDS.items()])


def events() -> str:
    """Return every class of webhook events."""
    from jetpay_async import webhooks  # noqa: PLC0415 - conf.py puts it on the path

    classes = [getattr(webhooks, name) for name in webhooks.__all__]
    found = [each for each in classes if inspect.isclass(each) and issubclass(each, webhooks.Event)]
    found.sort(key=lambda each: [base.__name__ for base in reversed(each.__mro__)])
    rows = [
        (f"{{py:obj}}`{each.__name__} <jetpay_async.webhooks.{each.__name__}>`", first_sentence(each)) for each in found
    ]
    return table(("class", "meaning"), rows)


def exit_statuses() -> str:
    """Return what the commands exit with, as ``jetpay --help`` shows it."""
    from jetpay_async._cli.io.exit_codes import EXIT_STATUSES  # noqa: PLC0415 - conf.py puts it on the path

    return f"```text\n{EXIT_STATUSES}```\n"


def settings(name: str) -> str:
    """Return every argument of something that takes settings, with its default and what its docstring says of it."""
    module, path = SETTINGS[name]
    value: Any = importlib.import_module(module)
    for part in path.split("."):
        value = getattr(value, part)
    texts = _texts_of_arguments(value)
    rows = [
        (f"`{parameter.name}`", _default(parameter), texts.get(parameter.name, ""))
        for parameter in inspect.signature(value).parameters.values()
        if parameter.name != "self"
    ]
    return table(("setting", "default", "meaning"), rows)


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return ""
    if isinstance(parameter.default, str | int | float | tuple | None):
        return f"`{parameter.default!r}`"
    return f"`{parameter.default.__name__}`" if inspect.isclass(parameter.default) else "its own"


def _texts_of_arguments(value: object) -> dict[str, str]:
    """Return what a docstring says of each argument, or of each attribute of a class of values."""
    found: dict[str, str] = {}
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n|\n)+)", f"{inspect.getdoc(value)}\n", re.MULTILINE)
    for argument in re.split(r"^    (?! )", section[1] if section else "", flags=re.MULTILINE)[1:]:
        name, _, text = argument.partition(":")
        found[name] = re.sub(r"`~[\w.]+\.(\w+)`", r"`\1`", " ".join(text.split()).replace("``", "`"))
    return found


def commands() -> str:
    """Return the help of every command of ``jetpay``, with the options that it has."""
    from jetpay_async._cli.parser import build_parser  # noqa: PLC0415 - conf.py puts it on the path

    def descend(parser: argparse.ArgumentParser) -> Iterable[argparse.ArgumentParser]:
        groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001 - argparse has no public way to them
        if not groups:
            yield parser
        for group in groups:
            for child in group.choices.values():
                yield from descend(child)

    return "\n".join(f"## {parser.prog}\n\n```text\n{_help(parser)}\n```\n" for parser in descend(build_parser()))


def _help(parser: argparse.ArgumentParser) -> str:
    """Return a command's help, whatever the width of the terminal, without the exit statuses that end each."""
    parser.formatter_class = partial(argparse.RawDescriptionHelpFormatter, width=100)
    parser.epilog = None
    return parser.format_help().strip()
