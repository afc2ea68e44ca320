"""Communication records under their keys: a JSON-lines file in, a file of sealed records out, and back.

Of each record the identifying fields go into one envelope under its account-month *and* its consumer, the rest into another under
the account-month. Shredding the consumer makes the identifying fields unreadable, shredding the account-month all of it. The
sealed file's format is in docs/cli.md, section "Sealed records".
"""

from keyvault.records.importing import DEFAULT_BATCH, ImportSummary, RecordImporter, open_records
from keyvault.records.parts import (
    DEFAULT_PII_FIELDS,
    OpenedRecord,
    SealedRecord,
    SourceRecord,
    check_pii_fields,
    parse_record,
)
from keyvault.records.sealed_file import FILE_NAME, RecordFile, read_sealed

__all__ = [
    "DEFAULT_BATCH",
    "DEFAULT_PII_FIELDS",
    "FILE_NAME",
    "ImportSummary",
    "OpenedRecord",
    "RecordFile",
    "RecordImporter",
    "SealedRecord",
    "SourceRecord",
    "check_pii_fields",
    "open_records",
    "parse_record",
    "read_sealed",
]
