"""Errors on the wire: their names and status codes on the way out, the same classes again in the client."""

from __future__ import annotations

from keyvault import errors
from keyvault.errors import (
    BatchRefusedError,
    BodyTooLargeError,
    ContentTypeError,
    InvalidInputError,
    KeyVaultError,
    MethodNotAllowedError,
    NotPermittedError,
    PermissionDeniedError,
    RateLimitedError,
    RestoreDetected,
    ScopeError,
    ServiceError,
    TokenRefusedError,
    Unavailable,
    UnknownPathError,
    UnknownRequestError,
    UnknownScopeError,
)
from keyvault.service.wire import ErrorAnswer, ItemProblem, Problem

STATUSES: tuple[tuple[type[KeyVaultError], int], ...] = (
    (TokenRefusedError, 401),
    (NotPermittedError, 403),
    (UnknownPathError, 404),
    (UnknownRequestError, 404),
    (UnknownScopeError, 404),
    (MethodNotAllowedError, 405),
    (ScopeError, 409),
    (BodyTooLargeError, 413),
    (ContentTypeError, 415),
    (RateLimitedError, 429),
    (Unavailable, 503),
    (RestoreDetected, 503),
    (PermissionDeniedError, 500),
    (InvalidInputError, 400),
)
"""The first that fits counts; anything else is 500."""
ERRORS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, KeyVaultError)
}


def status_of(error: KeyVaultError) -> int:
    """Return the status of an answer that is nothing but this error."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def to_wire(error: KeyVaultError) -> ErrorAnswer:
    """Write an error; messages of the library name no scope."""
    retry_after = error.retry_after if isinstance(error, Unavailable) else None
    return ErrorAnswer(type=type(error).__name__, message=str(error), retry_after=retry_after)


def problem_of(error: KeyVaultError) -> Problem:
    """Write what made a call fail as a whole."""
    items = None
    if isinstance(error, BatchRefusedError):
        items = [ItemProblem(index=index, error=to_wire(reason)) for index, reason in error.items]
    return Problem(error=to_wire(error), items=items)


def from_wire(answer: ErrorAnswer) -> KeyVaultError:
    """Return the error that the service met; a `ServiceError` where this version does not know its class."""
    kind = ERRORS.get(answer.type)
    if kind is None:
        return ServiceError(f"{answer.type}: {answer.message}")
    if issubclass(kind, Unavailable):
        return kind(answer.message, retry_after=1.0 if answer.retry_after is None else answer.retry_after)
    return kind(answer.message)
