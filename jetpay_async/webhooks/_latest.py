"""Whether the handler that runs is called for the latest event of a transaction only."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

latest_only: ContextVar[bool] = ContextVar("jetpay_latest_only", default=False)
"""Read by ``mark_handled()`` of an inbox, also in a thread that the handler has started."""


@contextmanager
def calling_for_latest() -> Generator[None]:
    """Surround a handler that was registered with ``latest=True``."""
    token = latest_only.set(True)
    try:
        yield
    finally:
        latest_only.reset(token)
