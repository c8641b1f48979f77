"""Make frozen values quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def draft_of(kind: type) -> Callable[[], Any]:
    """Return a class of the layout of a frozen one, whose instances can be filled in until they are given that class.

    Setting the attributes one by one takes a fraction of the time of the constructor, which has to work around
    the freezing.
    """
    thawed = {name: getattr(object, name) for name in ("__init__", "__setattr__", "__delattr__")}
    return type(f"_{kind.__name__}Draft", (kind,), {"__slots__": (), **thawed})
