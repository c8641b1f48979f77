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
    from jetpay_async._core.webhook_operations import UNCHANGED, Unchanged
    from jetpay_async._version import __version__
    from jetpay_async.bank_accounts import BankAccountDetails
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
    from jetpay_async.models import (
        BankAccount,
        Capture,
        CardForm,
        Charge,
        Contact,
        Credit,
        JSONValue,
        Payer,
        PaymentLink,
        Preauthorization,
        RawAnswer,
        TransactionState,
        TransactionStatus,
        Webhook,
    )
    from jetpay_async.money import Amount
    from jetpay_async.outcomes import (
        Accepted,
        AcceptedCharge,
        AcceptedPreauthorization,
        Captured,
        CaptureOutcome,
        Charged,
        ChargeOutcome,
        ChargeRequest,
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
    "UNCHANGED",
    "APIError",
    "Accepted",
    "AcceptedCharge",
    "AcceptedPreauthorization",
    "Amount",
    "Attempt",
    "AttemptResult",
    "AuthenticationError",
    "BankAccount",
    "BankAccountDetails",
    "Capture",
    "CaptureOutcome",
    "Captured",
    "CardForm",
    "Charge",
    "ChargeOutcome",
    "ChargeRequest",
    "Charged",
    "Clock",
    "ConfigurationError",
    "ConflictError",
    "Contact",
    "Credit",
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
    "Payer",
    "PaymentLink",
    "PermissionDeniedError",
    "Preauthorization",
    "PreauthorizationOutcome",
    "PreauthorizationRequest",
    "Preauthorized",
    "RateLimitedError",
    "RawAnswer",
    "Rejected",
    "RetryPolicy",
    "ServiceError",
    "TransactionFailedError",
    "TransactionState",
    "TransactionStatus",
    "Unchanged",
    "Unknown",
    "Webhook",
    "__version__",
]

# Importing aiohttp takes far longer than verifying a webhook; so a name is imported when it is first used (PEP 562).
_HOMES = {
    "UNCHANGED": "_core.webhook_operations",
    "Unchanged": "_core.webhook_operations",
    "BankAccountDetails": "bank_accounts",
    "BankAccount": "models",
    "CardForm": "models",
    "Charge": "models",
    "Contact": "models",
    "Credit": "models",
    "Payer": "models",
    "PaymentLink": "models",
    "RawAnswer": "models",
    "Webhook": "models",
    "AcceptedCharge": "outcomes",
    "Charged": "outcomes",
    "ChargeOutcome": "outcomes",
    "ChargeRequest": "outcomes",
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
