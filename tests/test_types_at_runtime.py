"""Every public signature can be evaluated at run time: frameworks that inject dependencies read them."""

from __future__ import annotations

import importlib
import inspect
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

PUBLIC_MODULES = [
    "jetpay_async",
    "jetpay_async.errors",
    "jetpay_async.ledger",
    "jetpay_async.models",
    "jetpay_async.money",
    "jetpay_async.opentelemetry",
    "jetpay_async.outcomes",
    "jetpay_async.procrastinate",
    "jetpay_async.sandbox",
    "jetpay_async.telemetry",
    "jetpay_async.testing",
    "jetpay_async.webhooks",
    "jetpay_async.webhooks.aiohttp",
    "jetpay_async.webhooks.asgi",
]
SPECIAL = {"__init__", "__call__", "__enter__", "__exit__", "__aenter__", "__aexit__", "__aiter__", "__anext__"}


def functions_of(value: object) -> Iterator[tuple[str, Any]]:
    """A function itself, or what a class offers, each with its name below that of the value."""
    if not inspect.isclass(value):
        if inspect.isfunction(value):
            yield "", value
        return
    yield "", value
    for name, member in inspect.getmembers(value):
        function = member.fget if isinstance(member, property) else inspect.unwrap(member) if callable(member) else None
        ours = str(getattr(function, "__module__", "")).startswith("jetpay_async")
        if ours and inspect.isroutine(function) and (name in SPECIAL or not name.startswith("_")):
            yield f".{name}", function


def public_signatures() -> dict[str, Any]:
    """All that carries annotations and can be reached by a public name."""
    found: dict[str, Any] = {}
    for name in PUBLIC_MODULES:
        module: ModuleType = importlib.import_module(name)
        for public in module.__all__:
            for below, value in functions_of(getattr(module, public)):
                found[f"{name}.{public}{below}"] = value
    return found


SIGNATURES = public_signatures()


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_public_signature_can_be_evaluated(name: str) -> None:
    """`typing.get_type_hints` finds every name that the annotations use."""
    hints = typing.get_type_hints(SIGNATURES[name])

    assert not any(isinstance(hint, str) for hint in hints.values())


def test_the_signatures_are_found() -> None:
    """Functions, classes, methods, properties and constructors are among them."""
    assert {
        "jetpay_async.JetpayClient",
        "jetpay_async.JetpayClient.__init__",
        "jetpay_async.JetpayClient.capture",
        "jetpay_async.JetpayClient.closed",
        "jetpay_async.JetpayClient.from_env",
        "jetpay_async.money.to_amount",
    } <= SIGNATURES.keys()
    assert len(SIGNATURES) > 400
