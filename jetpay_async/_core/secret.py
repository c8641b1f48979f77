"""Hide secrets from error reporters, which collect the local variables of frames and walk mappings and collections."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Secret(Generic[T]):
    """A value that an error reporter does not find: no text, no mapping, no collection, and without a ``repr`` of it.

    A function that has to keep a secret in a local variable keeps this instead, and deletes its argument.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the value. Pass it on at once, without giving it a name."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"
