"""The whole error tree. Every error a caller can meet descends from `KeyVaultError`.

Messages name what happened, to which thing (by id or pseudonym, never by a scope's name), and what to do next.
Errors of libraries underneath are wrapped at the boundary, with `from`.
"""

from __future__ import annotations

from collections.abc import Sequence


class KeyVaultError(Exception):
    """Root of every error this project raises on purpose."""


# --- what the caller passed in ---------------------------------------------------------------------------------


class InvalidInputError(KeyVaultError, ValueError):
    """An argument is malformed; nothing was done."""


class InvalidScopeError(InvalidInputError):
    """A scope name breaks a rule of `keyvault.scopes`."""


class InvalidFormatError(InvalidInputError):
    """Bytes are not a wrapped key, envelope or stream that this version reads."""


class DecryptionFailedError(KeyVaultError):
    """Bytes are well-formed, but were altered, belong to other associated data, or are under another key."""


# --- the state of a scope ------------------------------------------------------------------------------------


class ScopeError(KeyVaultError):
    """A scope's state forbids what was asked."""


class UnknownScopeError(ScopeError):
    """No scope of that name or id; create it with `ensure_scopes`."""


class ScopeSuspendedError(ScopeError):
    """The scope is suspended; resuming makes it usable again."""


class AccountInactiveError(ScopeError):
    """What was deleted comes back only while its account is active, and what facts suspended only by facts."""


class ScopeFencedError(ScopeError):
    """The scope's destruction is committed and under way; it never comes back."""


class ScopeDestroyedError(ScopeError):
    """The scope's key was destroyed; permanent."""


class PuncturedError(KeyVaultError):
    """The secret state from which this scope's or record's key came was punctured; nobody can derive it again."""


class AlreadyDueError(ScopeError):
    """The scope's retention period has ended; nothing new may be put under it."""


class SubjectEndedError(AlreadyDueError):
    """Facts ended what the scope belongs to: an account was closed, or a subject is due. The scope's own period may be running."""


class NotYetOpenError(ScopeError):
    """The scope's period lies in the future."""


class RenewalRefusedError(ScopeError):
    """The policy does not allow a new generation of this destroyed scope."""


class PurposeNotAllowedError(ScopeError):
    """The policy refuses keys of this kind of scope for the named purpose."""


class RecordsNotSupportedError(ScopeError):
    """The scope's custody cannot hold keys for single records; ring custody can."""


class InvalidTransitionError(ScopeError):
    """The key state machine has no such transition."""


# --- custody and the transit engine ----------------------------------------------------------------------------


class TransitError(KeyVaultError):
    """The transit engine refused or failed."""


class KeyMissingError(TransitError):
    """A named key does not exist. For an active scope this is an alarm, never a reason to create one."""


class KeyExistsError(TransitError):
    """A named key exists where none may."""


class CiphertextRefusedError(TransitError):
    """The engine will not decrypt: altered, other associated data, or a key version below the minimum."""


class CheckAndSetError(TransitError):
    """The stored version of a state entry is not the expected one; somebody else wrote it."""


class PermissionDeniedError(TransitError):
    """The role in use may not do this in the transit engine, or its credentials were refused."""


class EngineMismatchError(TransitError):
    """The engine's system keys are not those this store was made with."""


class Unavailable(KeyVaultError):  # noqa: N818 - the field's word for a condition that passes
    """The database or the transit engine cannot be reached now. Retryable.

    `retry_after` is in seconds.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RestoreDetected(KeyVaultError):  # noqa: N818 - the condition's name in the design
    """Database and transit engine are from different moments; nothing is served until the replay is done."""


# --- the service -------------------------------------------------------------------------------------------------


class ServiceError(KeyVaultError):
    """The service refused a call, or answered what it should not."""


class TokenRefusedError(ServiceError):
    """The token is unknown, expired or revoked; `keyvault token issue` makes another."""


class UnknownTokenError(ServiceError):
    """No token has this id."""


class NotPermittedError(ServiceError):
    """The token's role, or what it is limited to, does not allow this."""


class RateLimitedError(Unavailable):
    """The token asked more often than it may. Retryable."""


class UnknownPathError(ServiceError):
    """The service has nothing of that path; /openapi.json lists what it has."""


class MethodNotAllowedError(ServiceError):
    """The path takes other methods; the answer's `Allow` lists them."""


class BodyTooLargeError(InvalidInputError):
    """A body has more bytes than the service takes; send smaller batches."""


class ContentTypeError(InvalidInputError):
    """A body is called something else than JSON."""


class BatchRefusedError(InvalidInputError):
    """Items of a batch are malformed, and the caller wants all of it or nothing; nothing was done.

    `items`: the place of each that is malformed, from 0, and what is wrong with it.
    """

    def __init__(self, message: str, items: Sequence[tuple[int, KeyVaultError]] = ()) -> None:
        super().__init__(message)
        self.items = tuple(items)


class IncidentError(ServiceError):
    """Something went wrong in the service that nobody foresaw; its log says what, under the number that the message names."""


# --- destruction ----------------------------------------------------------------------------------------------


class DestructionError(KeyVaultError):
    """A destruction was refused, or is not complete."""


class DestructionPausedError(DestructionError):
    """Destructions are paused; `keyvault destroy resume` lets them run."""


class ConfirmationNeededError(DestructionError):
    """More would be destroyed than the policy lets go without its exact count as confirmation; nothing was."""


class ClockAheadError(DestructionError):
    """The clock is further ahead of the last trusted time than the policy allows; nothing was destroyed."""


class SweepRunningError(DestructionError):
    """Another sweep is at work, or took over from this one."""


class NotProvenError(DestructionError):
    """A key could not be proven gone; the destruction stays pending and is taken up by the next run."""


# --- requests ------------------------------------------------------------------------------------------------------


class RequestError(KeyVaultError):
    """A request is not where what was asked of it makes sense."""


class UnknownRequestError(RequestError):
    """No request of that id; `keyvault request list` shows what there is."""


class SamePersonError(RequestError):
    """Who made a request cannot approve it: two people are needed."""


class ListChangedError(RequestError):
    """What a request names is not what was shown any more; it must be looked at, and approved, once more."""


# --- the log -----------------------------------------------------------------------------------------------------------


class LogError(KeyVaultError):
    """The log cannot be written or read as it stands; nothing was signed."""


class VerificationError(KeyVaultError):
    """What was verified is not what it claims to be: altered, incomplete, signed by another key, or of another log."""


# --- the home and its store --------------------------------------------------------------------------------------


class ConfigurationError(KeyVaultError):
    """`keyvault.toml`, the environment or an option is missing, contradictory or out of range."""


class HomeNotFoundError(ConfigurationError):
    """No home in the named directory; `keyvault init` makes one."""


class StoreError(KeyVaultError):
    """The database refused or failed, and trying again will not help."""


class StoreVersionError(StoreError):
    """The database's migration is not the one this program knows."""
