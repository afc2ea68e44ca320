"""Write the seeds of the corpus from the vectors, failing ones included: `python -m tests.fuzz.seeds`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.vectors import load

CORPUS = Path(__file__).parent / "corpus"


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Give the target, the file's name and the bytes of each seed."""
    for target, file, field in [
        ("wrapped_key", "wrapped-key", "wrapped"),
        ("envelope", "envelope", "envelope"),
        ("stream", "stream", "stream"),
        ("punctured_state", "puncture", "encoded"),
    ]:
        for verdict, row, number in rows(file):
            if field in row:
                yield target, f"{verdict}-{number:02}", bytes.fromhex(row[field])
    for verdict, row, number in rows("scope-names"):
        yield "scope_name", f"{verdict}-{number:02}", row["name"].encode("utf-8", "surrogatepass")


def rows(file: str) -> Iterator[tuple[str, dict[str, str], int]]:
    vectors = load(file)
    for verdict in ("valid", "invalid"):
        for number, row in enumerate(vectors[verdict]):
            yield verdict, row, number


if __name__ == "__main__":
    for target, name, data in seeds():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
