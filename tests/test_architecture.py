"""The shape of the package: which way its imports point, what it exposes, and what importing it costs."""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import jetpay_async
import jetpay_async.ledger
import jetpay_async.webhooks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

PACKAGE = "jetpay_async"
ROOT = Path(jetpay_async.__file__).parent

# From the first rank to the last: a part may import the parts of the ranks before its own. A part is a module or a
# folder of the package; the modules of `_core` and `_batch` are parts by themselves. That no circle closes inside a
# folder is a contract in pyproject.toml, which `nox -s lint` checks.
LEAVES = {"_text", "bank_accounts", "_version", "errors", "models", "money", "outcomes", "telemetry"}
SHARED = {
    "_core.backoff",
    "_core.clock",
    "_core.contract",
    "_core.draft",
    "_core.endpoints",
    "_core.foreign_transaction",
    "_core.fork",
    "_core.json",
    "_core.lazy",
    "_core.log",
    "_core.migrations",
    "_core.secret",
    "_core.sqlite",
    "_core.validation",
}
RANKS = [
    LEAVES,
    SHARED,
    {"_core.arguments", "_core.connection_reset", "_core.schema"},
    {"_core.send_guard"},
    {"_core.http"},
    {"_core.operations", "_core.aiohttp_guard"},
    {"_core.account_operations", "_core.raw_operation"},
    {"_core.link_operations", "_core.webhook_operations"},
    {"_core.direct_request", "_core.responses", "_core.retry"},
    {"_core.transport"},
    {"_core.execution"},
    {"_core.call_errors", "_core.instrumented", "_core.resolve"},
    {"_core.listing"},
    {"_core.executor"},
    {"_core.single_flight"},
    {
        *("_batch.bloom_filter", "_batch.circuit_breaker", "_batch.concurrency_limit"),
        *("_batch.rate_limit", "_batch.stream"),
    },
    {"_batch.admission", "_batch.capture_history"},
    {"_batch.operation"},
    {"_batch.worker_pool"},
    {"ledger"},
    {"client"},
    {"procrastinate"},
]
CLIENT = set[str]().union(*RANKS)

# What each part may import besides itself. Nothing imports the last four, except that `testing` and `_cli` import the
# sandbox. Only these two may take a name from the package itself, as users do: elsewhere the import would not show
# which module it comes from.
MAY_IMPORT = {
    "__init__": CLIENT,  # for type checkers only, see below
    "_core": set[str](),
    "_batch": set[str](),
    **{
        part: set[str]().union(*RANKS[:rank], parts if parts in (LEAVES, SHARED) else ())
        for rank, parts in enumerate(RANKS)
        for part in parts
    },
    "webhooks": LEAVES | SHARED,
    "opentelemetry": LEAVES | {"webhooks"},
    "sandbox": LEAVES | SHARED | {"webhooks"},
    "testing": CLIENT | {"__init__", "webhooks", "sandbox"},
    "_cli": CLIENT | {"__init__", "webhooks", "sandbox"},
}

# The only modules that talk HTTP by themselves; the client's own is _core.transport alone.
MAY_IMPORT_AIOHTTP = (
    "_core.aiohttp_guard",
    "_core.direct_request",
    "_core.transport",
    "webhooks._jwks_http",
    "webhooks.aiohttp",
    "sandbox.",
    "testing",
    "_cli.",
)

# Data in, data out: these modules can't wait, send, read a clock or draw random numbers.
PURE = {
    "_text",
    "errors",
    "models",
    "money",
    *(
        f"_core.{name}"
        for name in (
            "backoff",
            "webhook_operations",
            "raw_operation",
            "link_operations",
            "contract",
            "arguments",
            "account_operations",
            "endpoints",
            "execution",
            "http",
            "json",
            "migrations",
            "operations",
            "responses",
            "retry",
            "schema",
            "validation",
        )
    ),
}
IMPURE = {"aiohttp", "asyncio", "logging", "os", "random", "socket", "ssl", "subprocess", "threading", "time"}


class When(Enum):
    """When an import takes place."""

    LOADING = "when the module is imported"
    RUNNING = "when a function is called"
    CHECKING = "never, but for type checkers"


@attrs.frozen
class Import:
    """One import of one module."""

    importer: str
    """Below the package, for example ``webhooks.keyset``."""
    line: int
    target: str
    """In full, for example ``jetpay_async.errors``."""
    when: When

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target} {self.when.value}"


def module_name(path: Path) -> str:
    """The name of a file's module below the package; a package's is its own."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def first_name(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def part_of(module: str) -> str:
    """The part that a module, named below the package, belongs to."""
    first, *rest = module.split(".")
    return f"{first}.{rest[0]}" if first in {"_core", "_batch"} and rest else first


def part_imported(found: Import) -> str:
    """The part of the package that an import is about."""
    return "__init__" if found.target == PACKAGE else part_of(found.target.removeprefix(f"{PACKAGE}."))


def is_module(name: str) -> bool:
    base = ROOT.joinpath(*name.split(".")[1:])
    return base.is_dir() or base.with_suffix(".py").is_file()


def targets(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules that a statement imports; of a package's submodule, only the submodule."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    assert node.level == 0, "imports are absolute"
    module = node.module or ""
    for alias in node.names:
        submodule = f"{module}.{alias.name}"
        yield submodule if first_name(module) == PACKAGE and is_module(submodule) else module


def walk(nodes: Iterable[ast.AST], importer: str, when: When) -> Iterator[Import]:
    for node in nodes:
        match node:
            case ast.Import() | ast.ImportFrom():
                yield from (Import(importer, node.lineno, target, when) for target in targets(node))
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from walk(node.body, importer, When.CHECKING)
                yield from walk(node.orelse, importer, when)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                inner = When.RUNNING if when is When.LOADING else when
                yield from walk(ast.iter_child_nodes(node), importer, inner)
            case _:
                yield from walk(ast.iter_child_nodes(node), importer, when)


def imports_of(path: Path) -> list[Import]:
    return list(walk([ast.parse(path.read_text(encoding="utf-8"))], module_name(path), When.LOADING))


FILES = sorted(ROOT.rglob("*.py"))


@functools.cache
def all_imports() -> list[Import]:
    """Find those of the package, once for all tests, and in no process that only collects them."""
    return [found for path in FILES for found in imports_of(path)]


def imports_inside() -> list[Import]:
    """Choose those of the package's own modules."""
    return [found for found in all_imports() if first_name(found.target) == PACKAGE]


def test_every_module_has_its_place() -> None:
    """A new part of the package says where it stands before it imports anything."""
    assert {part_of(module_name(path)) for path in FILES} == set(MAY_IMPORT)


def test_imports_point_one_way() -> None:
    """A module imports its own part and the ranks before it, even for type checkers or inside functions."""
    wrong = [
        str(found)
        for found in imports_inside()
        if part_imported(found) not in {part_of(found.importer), *MAY_IMPORT[part_of(found.importer)]}
    ]

    assert wrong == []


def test_only_the_ends_import_aiohttp() -> None:
    """aiohttp is imported where HTTP is spoken, and elsewhere for type checkers at most."""
    wrong = [
        str(found)
        for found in all_imports()
        if first_name(found.target) == "aiohttp"
        and found.when is not When.CHECKING
        and not f"{found.importer}.".startswith(tuple(f"{name.rstrip('.')}." for name in MAY_IMPORT_AIOHTTP))
    ]

    assert wrong == []


def test_the_pure_modules_are_pure() -> None:
    """What decides about money has no clock, no random numbers, no network and no log."""
    wrong = [str(found) for found in all_imports() if found.importer in PURE and first_name(found.target) in IMPURE]

    assert wrong == []


def test_the_rules_can_be_broken() -> None:
    """The walk finds imports at any depth, and knows when they take place."""
    source = """
import jetpay_async.client
from jetpay_async import errors
from jetpay_async._core import json
if TYPE_CHECKING:
    from aiohttp import web
else:
    import ssl
class Thing:
    async def method(self):
        try:
            from jetpay_async.sandbox import Sandbox
        finally:
            pass
"""
    found = {(i.target, i.when) for i in walk([ast.parse(source)], "errors", When.LOADING)}

    assert found == {
        ("jetpay_async.client", When.LOADING),
        ("jetpay_async._core.json", When.LOADING),
        ("jetpay_async.errors", When.LOADING),
        ("aiohttp", When.CHECKING),
        ("ssl", When.LOADING),
        ("jetpay_async.sandbox", When.RUNNING),
    }


# --- what is exposed --------------------------------------------------------------------------------------------------

LAZY = [jetpay_async, jetpay_async.ledger, jetpay_async.webhooks]
every_lazy_package = pytest.mark.parametrize("package", LAZY, ids=lambda package: package.__name__)


def declared(package: ModuleType) -> dict[str, str]:
    """The names that a package declares to type checkers, and the module of each."""
    assert package.__file__ is not None
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: node.module or ""
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@every_lazy_package
def test_all_is_what_type_checkers_see(package: ModuleType) -> None:
    """__all__ has each declared name once, and no other."""
    assert len(set(package.__all__)) == len(package.__all__)
    assert set(package.__all__) == set(declared(package))


@every_lazy_package
def test_each_name_is_what_type_checkers_believe(package: ModuleType) -> None:
    """A name imported at run time is the object of the module that type checkers look at."""
    for name, home in declared(package).items():
        assert getattr(package, name) is getattr(importlib.import_module(home), name), name


@every_lazy_package
def test_dir_lists_every_name(package: ModuleType) -> None:
    """Completion and documentation tools find the names before anyone has used them."""
    assert set(package.__all__) <= set(dir(package))


def test_nothing_else_is_exposed() -> None:
    """What dir() lists of the package is __all__, and a star import brings the same."""
    names: dict[str, object] = {}
    exec(f"from {PACKAGE} import *", names)

    assert sorted(dir(jetpay_async)) == sorted(jetpay_async.__all__)
    assert set(names) - {"__builtins__"} == set(jetpay_async.__all__)


@every_lazy_package
@pytest.mark.parametrize("name", ["NoSuchName", "Capturee", "_private", "client_"])
def test_another_name_is_an_attribute_error(package: ModuleType, name: str) -> None:
    """A name that does not exist is an AttributeError in Python's own words, and no import is tried for it."""
    with pytest.raises(AttributeError, match=f"^module '{package.__name__}' has no attribute '{name}'$"):
        getattr(package, name)


@pytest.mark.parametrize("name", ["errors", "models", "money", "telemetry"])
def test_a_public_module_exposes_its_classes(name: str) -> None:
    """Each name of a public module's __all__ exists, and is exposed by the package unless it is a function."""
    module = importlib.import_module(f"{PACKAGE}.{name}")

    for public in module.__all__:
        assert public in jetpay_async.__all__ or public == "to_amount"
        assert getattr(module, public) is not None


def test_the_package_is_marked_as_typed() -> None:
    """Type checkers of those who install the package read its annotations."""
    assert (ROOT / "py.typed").is_file()


def test_each_public_name_is_in_the_typed_example() -> None:
    """What type checkers are asked about in tests/typing is the whole surface of the client."""
    tree = ast.parse((Path(__file__).parent / "typing" / "example.py").read_text(encoding="utf-8"))
    imported = {
        alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE
        for alias in node.names
    }

    assert imported == set(jetpay_async.__all__) - {"__version__"}


# --- what importing costs -------------------------------------------------------------------------------------------

SLOW = {"aiohttp", "asyncio", "attr", "attrs", "cattrs", "cryptography", "msgspec", "multidict", "ssl", "yarl"}
OPTIONAL = {"opentelemetry", "procrastinate", "psycopg", "rich", "sqlite3", "uvloop"}


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement loads in a fresh interpreter, by their first names."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {first_name(name) for name in done.stdout.split()}


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import jetpay_async", set[str]()),
        ("import jetpay_async; dir(jetpay_async)", set[str]()),
        ("import jetpay_async.webhooks", set[str]()),
        ("from jetpay_async import DEMO_URL, PRODUCTION_URL, JetpayError, TransactionState", {"attr", "attrs"}),
        ("from jetpay_async.webhooks import WebhookError", {"attr", "attrs"}),
        (
            "from jetpay_async.webhooks import KeySet, decode, verify",
            {"attr", "attrs", "cattrs", "cryptography", "msgspec"},
        ),
        ("from jetpay_async import JetpayClient", SLOW - {"cattrs", "cryptography"}),
        ("import jetpay_async.ledger", {"attr", "attrs"}),
        ("from jetpay_async.ledger import Ledger", SLOW - {"cryptography"} | {"sqlite3"}),
    ],
    ids=[
        "package",
        "dir",
        "webhooks",
        "errors and states",
        "webhook errors",
        "verifying",
        "client",
        "ledger package",
        "ledger",
    ],
)
def test_importing_loads_no_more_than_is_used(statement: str, allowed: set[str]) -> None:
    """A name is paid for by those who use it: webhooks need no aiohttp, and the client no cryptography."""
    loaded = loaded_by(statement)

    assert PACKAGE in loaded
    assert loaded & (SLOW | OPTIONAL) <= allowed


CAPTURES = """
import asyncio, sys
from jetpay_async import JetpayClient

async def capture(url):
    async with JetpayClient("token", base_url=url) as client:
        assert (await client.capture("debit_1")).final

asyncio.run(capture(sys.argv[1]))
print(*(name for name in sys.modules if name.startswith("jetpay_async.")))
print(*({name.partition(".")[0] for name in sys.modules} & {"cattrs", "cryptography", "sqlite3"}))
"""
# What every process that uses the client loads. Each line more is paid for by all of them, at each start.
LOADED_BY_A_CAPTURE = {
    *("_core", "_text", "_version", "client", "errors", "ledger", "models", "money", "telemetry"),
    *("_core.aiohttp_guard", "_core.arguments", "_core.backoff", "_core.call_errors", "_core.clock"),
    *("_core.connection_reset", "_core.contract", "_core.direct_request", "_core.endpoints", "_core.execution"),
    *("_core.executor", "_core.fork", "_core.http", "_core.json", "_core.lazy", "_core.listing", "_core.log"),
    *("_core.operations", "_core.resolve", "_core.responses", "_core.retry", "_core.schema", "_core.secret"),
    *("_core.send_guard", "_core.single_flight", "_core.transport", "_core.validation"),
}


@pytest.mark.asyncio
async def test_a_capture_loads_no_module_that_it_does_not_use() -> None:
    """Batches, ledgers, webhooks, the account's calls and cattrs are imported by those who use them."""

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"identifier": "debit_1", "state": "paid"})

    app = web.Application()
    app.router.add_post("/debit/{debit_id}/capture", answer)
    async with TestServer(app) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CAPTURES, str(server.make_url("/"))),
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate()

    ours, others, _ = printed.decode().split("\n")
    assert {name.removeprefix(f"{PACKAGE}.") for name in ours.split()} == LOADED_BY_A_CAPTURE
    assert not others
