"""Sealing records in batches, and opening them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from keyvault.errors import (
    AlreadyDueError,
    InvalidInputError,
    KeyVaultError,
    NotYetOpenError,
    ScopeError,
    SubjectEndedError,
)
from keyvault.records.parts import (
    DEFAULT_PII_FIELDS,
    OpenedRecord,
    SealedRecord,
    SourceRecord,
    associated_data,
    parse_record,
)
from keyvault.records.sealed_file import RecordFile
from keyvault.values import OpenRequest, ScopeInfo, SealRequest
from keyvault.vault import KeyVault

DEFAULT_BATCH = 500


@dataclass(kw_only=True)
class ImportSummary:
    """What became of an import's lines. `refused` counts, by the error's name, what a scope's state forbade."""

    sealed: int = 0
    already_there: int = 0
    past_due: int = 0
    future: int = 0
    malformed: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def complete(self) -> bool:
        """Whether everything is in, but for what is past due."""
        return not (self.malformed or self.future or self.refused)


class RecordImporter:
    """Seals the lines of a JSON-lines file into a `RecordFile`. Run again after a crash, it goes on where it stopped."""

    def __init__(
        self,
        vault: KeyVault,
        target: RecordFile,
        *,
        pii_fields: Sequence[str] = DEFAULT_PII_FIELDS,
        on_malformed: Callable[[int, str], None] = lambda _number, _reason: None,
    ) -> None:
        """`on_malformed` is told the line's number, from 1, and the reason, which holds nothing of the line."""
        self._vault = vault
        self._target = target
        self._pii_fields = pii_fields
        self._on_malformed = on_malformed
        self._seen: set[str] = set()
        self._with_records: set[str] = set()
        self.summary = ImportSummary()

    def run(
        self, lines: Iterable[bytes], *, batch: int = DEFAULT_BATCH, progress: Callable[[int], None] = lambda _: None
    ) -> ImportSummary:
        """Import all lines, `batch` at a time, each batch durable before the next; `progress` is told the bytes of each.

        Raises what the vault raises as a whole (`Unavailable`, for one); what was imported until then stays.
        """
        numbered = enumerate(lines, start=1)
        while group := list(islice(numbered, batch)):
            parsed = (self._parse(number, line) for number, line in group)
            self._seal([record for record in parsed if record is not None])
            progress(sum(len(line) for _, line in group))
        return self.summary

    def _parse(self, number: int, line: bytes) -> SourceRecord | None:
        """Return a record to seal, or None, counted."""
        if not line.strip():
            return None
        try:
            record = parse_record(line, self._pii_fields)
            self._check_new(record)
        except InvalidInputError as error:
            self.summary.malformed += 1
            self._on_malformed(number, str(error))
            return None
        self._seen.add(record.record)
        if record.record in self._target.records:
            self.summary.already_there += 1
            return None
        return record

    def _check_new(self, record: SourceRecord) -> None:
        if record.record in self._seen:
            raise InvalidInputError("the record's id stands in an earlier line, too")

    def _seal(self, records: Sequence[SourceRecord]) -> None:
        # A consumer's scope is made only for a record that has a place under its month.
        records = self._with_scopes(records, lambda record: record.month)
        records = self._with_scopes(records, lambda record: record.consumer)
        envelopes = self._vault.seal_many([request for record in records for request in self._requests(record)])
        sealed = []
        for record, identity, content in zip(records, envelopes[::2], envelopes[1::2], strict=True):
            if isinstance(identity, KeyVaultError) or isinstance(content, KeyVaultError):
                self._refuse(identity if isinstance(identity, KeyVaultError) else content)
            else:
                sealed.append(SealedRecord(record=record.record, identity=identity, content=content))
        self._target.append(sealed)
        self.summary.sealed += len(sealed)

    def _with_scopes(
        self, records: Sequence[SourceRecord], scope_of: Callable[[SourceRecord], str]
    ) -> list[SourceRecord]:
        """Make the records' scopes, and return the records that have one."""
        names = list(dict.fromkeys(map(scope_of, records)))
        made = dict(zip(names, self._vault.ensure_scopes(names), strict=True))
        self._with_records.update(
            name for name, info in made.items() if isinstance(info, ScopeInfo) and info.holds_records
        )
        ready = []
        for record in records:
            result = made[scope_of(record)]
            if isinstance(result, KeyVaultError):
                self._refuse(result)
            else:
                ready.append(record)
        return ready

    def _requests(self, record: SourceRecord) -> tuple[SealRequest, SealRequest]:
        """Ask for both parts, under the record's own key where its month has such keys."""
        key = record.record if record.month in self._with_records else None
        identity = SealRequest(
            plaintext=record.identity,
            scopes=(record.month, record.consumer),
            associated_data=associated_data("identity", record.record),
            record=key,
        )
        content = SealRequest(
            plaintext=record.content,
            scopes=(record.month,),
            associated_data=associated_data("content", record.record),
            record=key,
        )
        return identity, content

    def _refuse(self, error: object) -> None:
        """Count what the scope's state forbids; anything else ends the import, which can be run again."""
        if isinstance(error, AlreadyDueError) and not isinstance(error, SubjectEndedError):
            self.summary.past_due += 1
        elif isinstance(error, NotYetOpenError):
            self.summary.future += 1
        elif isinstance(error, ScopeError):
            self.summary.refused[type(error).__name__] += 1
        elif isinstance(error, KeyVaultError):
            raise error


def open_records(
    vault: KeyVault, records: Iterable[SealedRecord], *, batch: int = DEFAULT_BATCH
) -> Iterator[OpenedRecord]:
    """Open records in batches; each part is itself or its own error."""
    waiting = iter(records)
    while group := list(islice(waiting, batch)):
        opened = vault.open_many(
            [
                OpenRequest(envelope=getattr(item, part), associated_data=associated_data(part, item.record))
                for item in group
                for part in ("identity", "content")
            ]
        )
        for item, identity, content in zip(group, opened[::2], opened[1::2], strict=True):
            yield OpenedRecord(record=item.record, identity=identity, content=content)
