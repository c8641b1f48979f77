"""Limits of the numbers that users give. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jetpay_async._core.validation import is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import attrs

__all__ = ["MOST_SECONDS", "MOST_SECONDS_AHEAD", "check_names", "check_number", "within"]

MOST_SECONDS = 366 * 86400
"""A year: no token and no delay is that long, and dates stay dates."""

MOST_SECONDS_AHEAD = 100 * MOST_SECONDS
"""How far the clock can be put forward in all: a century."""


def check_number(name: str, value: float, *, least: float = 0, most: float = MOST_SECONDS) -> None:
    """Refuse what is no number within limits.

    Raises:
        ValueError: It is none; the message names it.
    """
    if not is_number(value, least=least, most=most):
        raise ValueError(f"{name}: must be a number from {least:.12g} to {most:.12g}")


def within(least: float, most: float = MOST_SECONDS) -> Callable[[object, attrs.Attribute[Any], Any], None]:
    """Return `check_number` as the validator of an attribute."""
    return lambda _, attribute, value: check_number(attribute.name, value, least=least, most=most)


def check_names(name: str, value: Collection[str]) -> None:
    """Refuse a single text where several names are expected: it would be read letter by letter.

    Raises:
        ValueError: It is a text.
    """
    if isinstance(value, str):
        raise ValueError(f"{name}: must be a list of names, not a text")  # noqa: TRY004 - all refusals are ValueErrors
