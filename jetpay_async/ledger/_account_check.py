"""Whether a run asks the right account: one that knows none of its debits answers 404 or 403 to all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from jetpay_async.errors import ConfigurationError, NotFoundError, PermissionDeniedError
from jetpay_async.outcomes import NotSent, Rejected, Unknown

if TYPE_CHECKING:
    from jetpay_async.outcomes import BatchOutcome

_Claim = TypeVar("_Claim")

FIRST_ANSWERS = 8
"""So many of them say whether the account is the right one."""


class AccountCheck(Generic[_Claim]):
    """Holds back 404 and 403 as long as the API has given a run no other answer.

    Args:
        enabled: Whether anything is held back at all.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._passed = not enabled
        self._count = 0
        self._held: list[tuple[_Claim, Rejected[Any]]] = []

    def holds_back(self, claim: _Claim, outcome: BatchOutcome) -> bool:
        """Take an outcome into account; return whether it is not to be recorded yet."""
        if self._passed or isinstance(outcome, NotSent | Unknown):
            return False
        if isinstance(outcome, Rejected) and isinstance(outcome.error, NotFoundError | PermissionDeniedError):
            self._count += 1
            self._held.append((claim, outcome))
            return True
        self._passed = True
        return False

    @property
    def error(self) -> ConfigurationError | None:
        """Why the run must stop; None if it need not."""
        if self._passed or self._count < FIRST_ANSWERS:
            return None
        return ConfigurationError(
            f"the first {self._count} answers of this run were all 404 or 403: is this the right account? None of them "
            "was recorded; check the token and the base_url, or pass accept_rejections=True if they are right"
        )

    @property
    def releases(self) -> bool:
        """Whether something held back can be recorded: another answer shows that the account is the right one."""
        return self._passed and bool(self._held)

    def release(self) -> list[tuple[_Claim, Rejected[Any]]]:
        """Return what was held back, and hold it back no more."""
        held, self._held = self._held, []
        return held
