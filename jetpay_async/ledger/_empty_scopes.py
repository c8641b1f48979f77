"""Remembers where a claim found nothing, so that it is not asked again with every claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

_T = TypeVar("_T")


class EmptyScopes(Generic[_T]):
    """The scopes in which nothing was to be claimed, since it was last possible that something was added.

    Another process may add something at any time: `reset` is called in each poll interval, at least.
    """

    def __init__(self) -> None:
        self._found: set[_T] = set()
        self._resets = 0

    def others(self, scopes: Iterable[_T]) -> list[_T]:
        """Return those of some scopes in which something may be pending."""
        return [scope for scope in scopes if scope not in self._found]

    @property
    def moment(self) -> int:
        """When a claim begins, for `add`."""
        return self._resets

    def add(self, scopes: Iterable[_T], *, since: int) -> None:
        """Remember where a claim found nothing.

        Args:
            scopes: Where.
            since: `moment`, as it was when the claim began. What was added since, the claim may have missed.
        """
        if since == self._resets:
            self._found.update(scopes)

    def discard(self, scope: _T) -> None:
        """Forget a scope."""
        self._found.discard(scope)

    def reset(self) -> None:
        """Have all scopes asked again."""
        self._resets += 1
        self._found.clear()
