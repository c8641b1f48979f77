"""What the package offers, as text: ``python -m tests.public_api > tests/public_api.txt`` writes it anew.

Names, parameters and their defaults. Types are left to the type checkers, which spell them differently in each Python.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType

import jetpay_async


def public_modules() -> list[str]:
    """All modules that users may import from."""
    found = [
        module.name
        for module in pkgutil.walk_packages(jetpay_async.__path__, "jetpay_async.")
        if not any(part.startswith("_") for part in module.name.split("."))
    ]
    return ["jetpay_async", *(name for name in sorted(found) if ".migrations" not in name)]


def lines() -> Iterator[str]:
    """One line for each name."""
    for name in public_modules():
        module = importlib.import_module(name)
        yield f"{name}"
        for public in sorted(getattr(module, "__all__", ())):
            yield from _describe(public, getattr(module, public), module)


def _describe(name: str, value: object, module: ModuleType) -> Iterator[str]:
    home = getattr(value, "__module__", None)
    if isinstance(home, str) and home.startswith("jetpay_async") and home != module.__name__ and _is_public(home):
        yield f"  {name}: see {home}"
    elif inspect.isclass(value):
        yield f"  class {name}({', '.join(base.__name__ for base in value.__bases__)}){_parameters(value)}"
        yield from _members(value)
    elif inspect.isroutine(value):
        yield f"  {'async ' if inspect.iscoroutinefunction(value) else ''}def {name}{_parameters(value)}"
    else:
        yield f"  {name}"


def _is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split(".")[1:])


def _members(owner: type) -> Iterator[str]:
    if issubclass(owner, enum.Enum):
        yield from (f"    {member.name} = {member.value!r}" for member in owner)
    fields = {field.name for field in getattr(owner, "__attrs_attrs__", ())}
    members: dict[str, object] = {}
    for each in reversed(owner.__mro__):
        if each.__module__.startswith("jetpay_async"):
            members.update(vars(each))
    for name in sorted({*members, *fields}):
        value = members.get(name)
        if name.startswith("_") or (issubclass(owner, enum.Enum) and isinstance(value, owner)):
            continue
        if isinstance(value, classmethod | staticmethod):
            value = value.__func__
        if inspect.isroutine(value):
            yield f"    {'async ' if inspect.iscoroutinefunction(value) else ''}def {name}{_parameters(value)}"
        else:
            yield f"    {name}"


def _parameters(value: object) -> str:
    if inspect.isclass(value) and issubclass(value, enum.Enum):
        return ""  # it differs between the Pythons
    try:
        signature = inspect.signature(value)  # type: ignore[arg-type] # whatever has one
    except (TypeError, ValueError):
        return ""
    if inspect.isclass(value) and not value.__module__.startswith("jetpay_async"):
        return ""
    parameters = []
    for parameter in signature.parameters.values():
        default = parameter.default
        if default is not inspect.Parameter.empty:
            shown = repr(default)
            default = shown if " at 0x" not in shown and len(shown) < 60 else "..."
        parameters.append(
            parameter.replace(
                annotation=inspect.Parameter.empty,
                default=default if default is inspect.Parameter.empty else _Shown(str(default)),
            )
        )
    return str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


class _Shown:
    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in lines())
