"""An asyncio client for the Jetpay payments API.

It never moves money twice, never loses an outcome and never guesses. Start with `JetpayClient`; webhooks are received
with `jetpay_async.webhooks`, which does not need the client.
"""

from typing import TYPE_CHECKING

from jetpay_async._core.lazy import lazily

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async._core.endpoints import DEMO_URL, PRODUCTION_URL
    from jetpay_async._core.retry import RetryPolicy
    from jetpay_async._version import __version__
    from jetpay_async.client import JetpayClient
    from jetpay_async.errors import (
        APIError,
        AuthenticationError,
        ConfigurationError,
        ConflictError,
        FieldError,
        InvalidArgumentError,
        InvalidRequestError,
        JetpayError,
        NotFoundError,
        NotSentError,
        Outcome,
        OutcomeUnknownError,
        PermissionDeniedError,
        RateLimitedError,
        ServiceError,
        TransactionFailedError,
    )
    from jetpay_async.models import Capture, JSONValue, Preauthorization, TransactionState, TransactionStatus
    from jetpay_async.money import Amount
    from jetpay_async.outcomes import (
        Accepted,
        AcceptedPreauthorization,
        Captured,
        CaptureOutcome,
        NotSent,
        PreauthorizationOutcome,
        PreauthorizationRequest,
        Preauthorized,
        Rejected,
        Unknown,
    )
    from jetpay_async.telemetry import Attempt, AttemptResult, Operation, OperationOutcome

__all__ = [
    "DEMO_URL",
    "PRODUCTION_URL",
    "APIError",
    "Accepted",
    "AcceptedPreauthorization",
    "Amount",
    "Attempt",
    "AttemptResult",
    "AuthenticationError",
    "Capture",
    "CaptureOutcome",
    "Captured",
    "Clock",
    "ConfigurationError",
    "ConflictError",
    "FieldError",
    "InvalidArgumentError",
    "InvalidRequestError",
    "JSONValue",
    "JetpayClient",
    "JetpayError",
    "NotFoundError",
    "NotSent",
    "NotSentError",
    "Operation",
    "OperationOutcome",
    "Outcome",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "Preauthorization",
    "PreauthorizationOutcome",
    "PreauthorizationRequest",
    "Preauthorized",
    "RateLimitedError",
    "Rejected",
    "RetryPolicy",
    "ServiceError",
    "TransactionFailedError",
    "TransactionState",
    "TransactionStatus",
    "Unknown",
    "__version__",
]

# Importing aiohttp takes far longer than verifying a webhook; so a name is imported when it is first used (PEP 562).
_HOMES = {
    "DEMO_URL": "_core.endpoints",
    "PRODUCTION_URL": "_core.endpoints",
    "Accepted": "outcomes",
    "AcceptedPreauthorization": "outcomes",
    "Amount": "money",
    "Attempt": "telemetry",
    "AttemptResult": "telemetry",
    "Capture": "models",
    "CaptureOutcome": "outcomes",
    "Captured": "outcomes",
    "Clock": "_core.clock",
    "JSONValue": "models",
    "JetpayClient": "client",
    "NotSent": "outcomes",
    "Operation": "telemetry",
    "OperationOutcome": "telemetry",
    "Preauthorization": "models",
    "PreauthorizationOutcome": "outcomes",
    "PreauthorizationRequest": "outcomes",
    "Preauthorized": "outcomes",
    "Rejected": "outcomes",
    "RetryPolicy": "_core.retry",
    "TransactionState": "models",
    "TransactionStatus": "models",
    "Unknown": "outcomes",
    "__version__": "_version",
}

if not TYPE_CHECKING:  # a type checker that saw a __getattr__ would take any misspelt name for one of ours
    __getattr__, __dir__ = lazily(__name__, __all__, _HOMES, otherwise="errors")
