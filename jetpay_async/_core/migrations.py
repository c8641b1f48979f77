"""Which numbered steps bring the tables of an older release up to date. Pure; the backends carry the steps out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator


class NewerSchemaError(Exception):
    """A newer release wrote the tables.

    Attributes:
        found: The version of the tables.
        known: The version that this release writes.
    """

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"schema version {found}, and this release of jetpay_async knows {known}")
        self.found = found
        self.known = known


@attrs.frozen
class Migrations:
    """The current version of a schema, and how to get there from each older one."""

    version: int
    """The version that this release reads and writes."""
    steps: Mapping[int, Sequence[str]]
    """By version, from 2 on: the statements that make this version of the one before it."""

    def after(self, found: int) -> Iterator[tuple[int, Sequence[str]]]:
        """Yield the steps that a schema still needs, each with the version that it leads to.

        Args:
            found: The version of the tables.

        Raises:
            NewerSchemaError: A newer release wrote them.
        """
        if found > self.version:
            raise NewerSchemaError(found, self.version)
        for version in range(found + 1, self.version + 1):
            yield version, self.steps[version]
