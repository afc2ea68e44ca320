"""The calls of the storage layer: scopes and their data keys. None of them destroys a key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from keyvault.errors import KeyVaultError
from keyvault.leases import AnswerLease
from keyvault.service import wire
from keyvault.service.failures import to_wire
from keyvault.states import KeyState
from keyvault.values import DataKey, KeyRequest, RewrapRequest, ScopeInfo, UnwrapRequest, WrapRequest
from keyvault.vault import KeyVault


class KeyCalls:
    """Answers the wire's questions from a `KeyVault`. Thread-safe."""

    def __init__(self, vault: KeyVault) -> None:
        """Ask `vault`, which the caller closes."""
        self._vault = vault

    def ensure_scopes(self, body: wire.EnsureScopes) -> wire.ScopeAnswers:
        """Return each scope, created where it was not there."""
        return _scopes(self._vault.ensure_scopes(body.names, renew=body.renew))

    def describe_scopes(self, body: wire.ScopeNames) -> wire.ScopeAnswers:
        """Return each scope's newest generation."""
        return _scopes(self._vault.describe(body.names))

    def suspend_scopes(self, body: wire.ScopeNames) -> wire.ScopeAnswers:
        """Let no key of these scopes be issued until they are resumed."""
        return _scopes(self._vault.suspend(body.names))

    def resume_scopes(self, body: wire.ScopeNames) -> wire.ScopeAnswers:
        """Let keys of suspended scopes be issued again."""
        return _scopes(self._vault.resume(body.names))

    def suspend_records(self, body: wire.RecordNames) -> wire.RecordAnswers:
        """Let no key of these records be issued until they are resumed."""
        return _records(self._vault.suspend_records(body.scope, body.records))

    def resume_records(self, body: wire.RecordNames) -> wire.RecordAnswers:
        """Let keys of suspended records be issued again."""
        return _records(self._vault.resume_records(body.scope, body.records))

    def generate_keys(self, body: wire.GenerateKeys) -> wire.KeyAnswers:
        """Give fresh 32-byte data keys, in plaintext and wrapped."""
        lease = AnswerLease()
        made = self._vault.generate_data_keys(_key_requests(body), lease)
        return wire.KeyAnswers(lease=self._vault.lease_left(lease), keys=[_data_key(item) for item in made])

    def generate_kept(self, body: wire.GenerateKeys) -> wire.KeyAnswers | None:
        """As `generate_keys`, without waiting for anything; None where the database must be asked."""
        lease = AnswerLease()
        made = self._vault.generate_kept(_key_requests(body), lease)
        if made is None:
            return None
        return wire.KeyAnswers(lease=self._vault.lease_left(lease), keys=[_data_key(item) for item in made])

    def wrap_keys(self, body: wire.WrapKeys) -> wire.KeyAnswers:
        """Wrap data keys that exist already; the answer has no plaintext, which the caller has."""
        lease = AnswerLease()
        made = self._vault.wrap_data_keys(
            [
                WrapRequest(
                    scopes=item.scopes,
                    associated_data=item.associated_data,
                    purpose=item.purpose,
                    record=item.record,
                    data_key=item.data_key,
                )
                for item in body.keys
            ],
            lease,
        )
        answers = [_wrapped(item) for item in made]
        return wire.KeyAnswers(lease=self._vault.lease_left(lease), keys=answers)

    def unwrap_keys(self, body: wire.UnwrapKeys) -> wire.KeyAnswers:
        """Give back data keys."""
        lease = AnswerLease()
        opened = self._vault.unwrap_data_keys(_unwrap_requests(body), lease)
        return wire.KeyAnswers(lease=self._vault.lease_left(lease), keys=[_opened(item) for item in opened])

    def unwrap_kept(self, body: wire.UnwrapKeys) -> wire.KeyAnswers | None:
        """As `unwrap_keys`, without waiting for anything; None where the database must be asked."""
        lease = AnswerLease()
        opened = self._vault.unwrap_kept(_unwrap_requests(body), lease)
        if opened is None:
            return None
        return wire.KeyAnswers(lease=self._vault.lease_left(lease), keys=[_opened(item) for item in opened])

    def rewrap_keys(self, body: wire.RewrapKeys) -> wire.KeyAnswers:
        """Move wrapped data keys under other scopes; no data key leaves the service."""
        moved = self._vault.rewrap_data_keys(
            [
                RewrapRequest(
                    scopes=item.scopes,
                    associated_data=item.associated_data,
                    purpose=item.purpose,
                    record=item.record,
                    wrapped=item.wrapped,
                )
                for item in body.keys
            ]
        )
        answers = [
            wire.KeyAnswer(error=to_wire(item)) if isinstance(item, KeyVaultError) else wire.KeyAnswer(wrapped=item)
            for item in moved
        ]
        return wire.KeyAnswers(lease=0.0, keys=answers)


def wipe_answers(answers: object) -> None:
    """Overwrite the data keys in an answer, once it is encoded."""
    if isinstance(answers, wire.KeyAnswers):
        for answer in answers.keys:
            if answer.plaintext is not None:
                answer.plaintext[:] = bytes(len(answer.plaintext))


def _key_requests(body: wire.GenerateKeys) -> list[KeyRequest]:
    return [
        KeyRequest(scopes=item.scopes, associated_data=item.associated_data, purpose=item.purpose, record=item.record)
        for item in body.keys
    ]


def _unwrap_requests(body: wire.UnwrapKeys) -> list[UnwrapRequest]:
    return [
        UnwrapRequest(wrapped=item.wrapped, associated_data=item.associated_data, purpose=item.purpose)
        for item in body.keys
    ]


def _opened(item: bytearray | KeyVaultError) -> wire.KeyAnswer:
    if isinstance(item, KeyVaultError):
        return wire.KeyAnswer(error=to_wire(item))
    return wire.KeyAnswer(plaintext=item)


def _data_key(item: DataKey | KeyVaultError) -> wire.KeyAnswer:
    if isinstance(item, KeyVaultError):
        return wire.KeyAnswer(error=to_wire(item))
    return wire.KeyAnswer(plaintext=item.plaintext, wrapped=item.wrapped)


def _wrapped(item: DataKey | KeyVaultError) -> wire.KeyAnswer:
    if isinstance(item, KeyVaultError):
        return wire.KeyAnswer(error=to_wire(item))
    item.wipe()
    return wire.KeyAnswer(wrapped=item.wrapped)


def _scopes(results: Sequence[ScopeInfo | KeyVaultError]) -> wire.ScopeAnswers:
    return wire.ScopeAnswers(scopes=[_scope(item) for item in results])


def _scope(item: ScopeInfo | KeyVaultError) -> wire.ScopeAnswer:
    if isinstance(item, KeyVaultError):
        return wire.ScopeAnswer(error=to_wire(item))
    return wire.ScopeAnswer(**asdict(item))


def _records(results: Sequence[KeyState | KeyVaultError]) -> wire.RecordAnswers:
    return wire.RecordAnswers(
        records=[
            wire.RecordAnswer(error=to_wire(item)) if isinstance(item, KeyVaultError) else wire.RecordAnswer(state=item)
            for item in results
        ]
    )
