"""Packages (PEP 562) and modules whose names are imported when they are first used."""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False  # importing `typing` takes longer than all that is here

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


def lazily(
    package: str, names: Collection[str], homes: Mapping[str, str], *, otherwise: str
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: Its ``__name__``.
        names: Its ``__all__``.
        homes: The module of each name, below the package.
        otherwise: The module of the names that have no home there.
    """

    def find(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"{package}.{homes.get(name, otherwise)}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, lambda: sorted(names)


class LazyModule:
    """Stands for a module, which is imported when one of its names is first used.

    Args:
        name: The module's, in full.
    """

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __getattr__(self, name: str) -> object:
        value: object = getattr(import_module(self.__name__), name)
        setattr(self, name, value)  # found by itself from now on
        return value
