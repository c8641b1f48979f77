"""What is wrong with a list: the first few places, and how many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetpay_async._cli.io.list_reader import ListReader

__all__ = ["Complaints"]

_MAX_SHOWN = 10


class Complaints:
    """The places of a list that are not valid.

    Args:
        reader: Of the list.
    """

    def __init__(self, reader: ListReader) -> None:
        self._reader = reader
        self.count = 0
        self._shown: list[str] = []

    def add(self, place: int, reason: str) -> None:
        """Note what is wrong with a place."""
        self.count += 1
        if self.count <= _MAX_SHOWN:
            self._shown.append(f"  {self._reader.unit} {place}: {reason}")

    def __str__(self) -> str:
        more = [f"  and {self.count - _MAX_SHOWN:,} more"] if self.count > _MAX_SHOWN else []
        unit = self._reader.unit
        places = (
            f"{'an' if unit == 'item' else 'a'} {unit} is not valid"
            if self.count == 1
            else f"{self.count:,} {unit}s are not valid"
        )
        return "\n".join((f"{places}; nothing was sent", *self._shown, *more))
