"""Every failure the service names, without a word about HTTP (routers/problems.py has that table).

ServiceError                    the request as a whole cannot be answered
├── BadRequest                  the caller can mend it by asking differently
│   ├── MissingSource · MultipleSources · EmptyFile · ImageUrlRefused
│   ├── MultipleBackgrounds · RegionOutside · RegionEmpty · UnsupportedParameter
│   └── InvalidParameter
├── BadPicture                  the bytes arrived, but they are not a picture we can work on
│   ├── UnsupportedMediaType · UnreadableImage · ImageTruncated · TooManyPixels
│   ├── FileTooLarge · ScaleOutOfRange · SideTooLong
│   └── ImageDownloadFailed · UnknownForeground
├── AccessRefused               who asks is not known, or may not do this
│   ├── MissingKey · InvalidKey · RateLimited · UnknownHost
│   └── NotAllowed · SessionExhausted
├── ResultNotFound · NothingToCompare · OriginalNotKept
├── BudgetExhausted             money set aside for today or for this call is spent
├── IdempotencyInFlight · IdempotencyMismatch · IdempotencyUnavailable
├── AllModelsFailed · NoModelAvailable · PickFailed
├── NotPickable · PicksUnavailable
├── DeadlineExceeded
├── NotAdmitted                 no work has begun on it
│   └── Overloaded · Draining
├── InsufficientMemory
└── InsufficientStorage · StorageUnavailable
RemoverError                    one model's attempt failed; the others go on
RemoverUnavailable              one model cannot be tried at all; the others go on
└── CircuitOpen                 its provider is left alone for now
"""

from decimal import Decimal
from enum import StrEnum


class ServiceError(Exception):
    """The request cannot be answered; `detail` is a sentence for the caller.

    `limit` and `actual` are the two numbers of a broken limit, `field` the parameter at fault,
    `hint` what to do about it, `retry_after_s` when asking again makes sense.
    """

    def __init__(  # noqa: PLR0913  # every one is named at the raise site
        self,
        detail: str,
        *,
        limit: float | None = None,
        actual: float | None = None,
        field: str | None = None,
        hint: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.limit = limit
        self.actual = actual
        self.field = field
        self.hint = hint
        self.retry_after_s = retry_after_s


class BadRequest(ServiceError): ...


class MissingSource(BadRequest): ...


class MultipleSources(BadRequest): ...


class EmptyFile(BadRequest): ...


class ImageUrlRefused(BadRequest): ...


class InvalidParameter(BadRequest): ...


class MultipleBackgrounds(BadRequest): ...


class RegionOutside(BadRequest): ...


class RegionEmpty(BadRequest): ...


class UnsupportedParameter(BadRequest): ...


class BodyTooSlow(ServiceError): ...


class BadPicture(ServiceError): ...


class UnsupportedMediaType(BadPicture): ...


class UnreadableImage(BadPicture): ...


class ImageTruncated(BadPicture): ...


class TooManyPixels(BadPicture): ...


class FileTooLarge(BadPicture): ...


class ScaleOutOfRange(BadPicture): ...


class SideTooLong(BadPicture): ...


class ImageDownloadFailed(BadPicture): ...


class UnknownForeground(BadPicture): ...


class AccessRefused(ServiceError): ...


class MissingKey(AccessRefused): ...


class InvalidKey(AccessRefused): ...


class NotAllowed(AccessRefused): ...


class SessionExhausted(AccessRefused): ...


class RateLimited(AccessRefused): ...


class UnknownHost(AccessRefused): ...


class ResultNotFound(ServiceError): ...


class BudgetExhausted(ServiceError): ...


class IdempotencyInFlight(ServiceError): ...


class IdempotencyMismatch(ServiceError): ...


class IdempotencyUnavailable(ServiceError): ...


class NothingToCompare(ServiceError): ...


class OriginalNotKept(ServiceError): ...


class AllModelsFailed(ServiceError): ...


class NoModelAvailable(ServiceError): ...


class PickFailed(ServiceError): ...


class NotPickable(ServiceError): ...


class PicksUnavailable(ServiceError): ...


class DeadlineExceeded(ServiceError): ...


class NotAdmitted(ServiceError): ...


class Overloaded(NotAdmitted): ...


class Draining(NotAdmitted): ...


class InsufficientMemory(ServiceError): ...


class InsufficientStorage(ServiceError): ...


class StorageUnavailable(ServiceError): ...


class FailureCode(StrEnum):
    """Why one model's attempt failed, as the entry of a result reports it."""

    PROVIDER_TIMEOUT = "provider_timeout"
    PROVIDER_UNREACHABLE = "provider_unreachable"
    PROVIDER_REFUSED = "provider_refused"
    PROVIDER_QUOTA = "provider_quota"
    PROVIDER_RATE_LIMITED = "provider_rate_limited"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_BAD_RESULT = "provider_bad_result"
    PROVIDER_OUTCOME_UNKNOWN = "provider_outcome_unknown"
    CONTENT_REJECTED = "content_rejected"
    MODEL_CRASHED = "model_crashed"
    INSUFFICIENT_MEMORY = "insufficient_memory"
    INSUFFICIENT_STORAGE = "insufficient_storage"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    CANCELLED = "cancelled"


HOPELESS = frozenset({FailureCode.PROVIDER_REFUSED, FailureCode.PROVIDER_QUOTA})
"""What the next request would meet as well."""


class RemoverError(Exception):
    """One model's attempt failed; `message` is a sentence for the caller.

    `cost_usd` is what the attempt was charged all the same.
    """

    def __init__(
        self,
        code: FailureCode,
        message: str,
        *,
        retryable: bool = False,
        cost_usd: Decimal = Decimal(0),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.cost_usd = cost_usd


class RemoverUnavailable(Exception):
    """One model cannot be tried now; `reason` says why, for people."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CircuitOpen(RemoverUnavailable): ...
