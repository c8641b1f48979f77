"""Checks of the numbers that users give."""

from __future__ import annotations

import sys

from jetpay_async.errors import ConfigurationError, InvalidArgumentError

_LARGEST = sys.float_info.max


def is_number(value: object, *, least: float = 0.0, most: float = _LARGEST) -> bool:
    """Say whether a value is an int or a float from ``least`` to ``most``: no bool, no NaN, not infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def check_seconds(
    name: str, value: float, *, zero: bool = False, most: float = _LARGEST, configuration: bool = False
) -> float:
    """Return a number of seconds that a user gave, or refuse it.

    Args:
        name: The argument's name, for the message and for `InvalidArgumentError.field`.
        value: What the user gave.
        zero: Whether 0 is allowed.
        most: The largest number that is allowed.
        configuration: Whether to raise `ConfigurationError` instead of `InvalidArgumentError`.

    Raises:
        InvalidArgumentError: ``value`` is no number within these limits.
        ConfigurationError: The same, where ``configuration`` says so.
    """
    if is_number(value, most=most) and (zero or value > 0):
        return float(value)
    least = "0 or more" if zero else "more than 0"
    limits = least if most == _LARGEST else f"{least}, {most:g} at most"
    message = f"{name}={value!r} must be a number of seconds, {limits}"
    raise ConfigurationError(message) if configuration else InvalidArgumentError(message, field=name)
