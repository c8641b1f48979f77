"""What frameworks read of the public signatures at run time."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing
from typing import TYPE_CHECKING, Any

import pytest

from jetpay_async import testing, webhooks

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULES = [
    testing,
    *(
        importlib.import_module(f"{webhooks.__name__}.{found.name}")
        for found in pkgutil.iter_modules(webhooks.__path__)
    ),
]


def signatures() -> Iterator[tuple[str, Any]]:
    """Yield each public class, function, method and property."""
    for module in MODULES:
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if not callable(value):
                continue
            yield f"{module.__name__}.{name}", value
            for member_name, member in vars(value).items() if inspect.isclass(value) else ():
                if member_name.startswith("_") and member_name not in ("__init__", "__aenter__", "__aexit__"):
                    continue
                function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                if inspect.isfunction(function):
                    yield f"{module.__name__}.{name}.{member_name}", function


@pytest.mark.parametrize("signature", [pytest.param(value, id=name) for name, value in signatures()])
def test_annotations_resolve(signature: Any) -> None:
    """Every public annotation can be resolved, as frameworks that inject dependencies do."""
    hints = typing.get_type_hints(signature)

    assert not any(isinstance(hint, str) for hint in hints.values())
