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
    for target, vectors, field in [
        ("scope_name", load("scope-names"), "name"),
        ("tile_path", load("log-tiles"), "path"),
        ("verifier_key", load("log-checkpoint")["keys"], "vkey"),
        ("signed_note", load("log-checkpoint"), "note"),
        ("proof_file", load("log-proof"), "proof"),
    ]:
        for verdict, row, number in rows_of(vectors):
            yield target, f"{verdict}-{number:02}", row[field].encode("utf-8", "surrogatepass")
    for verdict, row, number in rows_of(load("log-checkpoint")):
        yield "checkpoint_text", f"{verdict}-{number:02}", row["note"].partition("\n\n")[0].encode() + b"\n"
    for verdict, row, number in rows_of(load("log-tiles")["bundles"]):
        yield "entry_bundle", f"{verdict}-{number:02}", bytes.fromhex(row["bundle"])


def rows(file: str) -> Iterator[tuple[str, dict[str, str], int]]:
    return rows_of(load(file))


def rows_of(vectors: dict[str, list[dict[str, str]]]) -> Iterator[tuple[str, dict[str, str], int]]:
    for verdict in ("valid", "invalid"):
        for number, row in enumerate(vectors[verdict]):
            yield verdict, row, number


if __name__ == "__main__":
    for target, name, data in seeds():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
