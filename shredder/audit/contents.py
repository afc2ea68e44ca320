"""What a pack has beside its tree, compared with what the tree says there must be: proof files, and salts of account-months."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from keyvault.errors import VerificationError
from shredder.audit.bundles import Destroyed
from shredder.audit.columns import texts_of
from shredder.audit.finding import Finding
from shredder.audit.fold import Ledger
from shredder.audit.manifest import POPULATION, proof_path
from shredder.audit.opening import Opened
from shredder.audit.population import AccountMonth, Listed, listed_in, parse_population
from shredder.audit.scopes import Scopes
from shredder.audit.worker import Helper
from shredder.log.merkle import verify_inclusion
from shredder.log.proof import parse_proof

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

BLOCK_BYTES = 1_000_000


def check_proofs(path: Path, opened: Opened, proven: Iterable[Destroyed]) -> list[Finding]:
    """Verify the proof file of each of these entries, by index and leaf hash; one that is missing is not a finding of this."""
    findings = []
    for index, leaf, _ in proven:
        name = proof_path(index)
        try:
            _check_proof((path / name).read_bytes(), index, leaf, opened)
        except FileNotFoundError:
            continue  # which is found where the files are compared
        except VerificationError as error:
            findings.append(Finding(code="proof", where=name, message=str(error)))
    return findings


def _check_proof(data: bytes, index: int, leaf: bytes, opened: Opened) -> None:
    proof = parse_proof(data)
    if proof.index != index or proof.extra is not None or proof.text != data:
        raise VerificationError(f"this is not the proof of entry {index} as it is written")
    if proof.checkpoint != opened.note or opened.checkpoint is None:
        raise VerificationError("the proof leads to another checkpoint than the pack's")
    verify_inclusion(leaf, index, opened.checkpoint.size, proof.hashes, opened.checkpoint.root)


def read_population(
    path: Path, ledger: Ledger, digests: dict[str, str], helper: Helper, *, keep: bool
) -> tuple[list[AccountMonth], list[Finding]]:
    """Read the account-months, which must be those of the log; return them if they are to be kept.

    Whether a salt is the right one shows when a name is tried: what has a wrong one is both missing and extra then.
    """
    months = _Months(ledger.scopes)
    hashed = sha256()
    try:
        with (path / POPULATION).open("rb") as file:
            for listed in helper.shared(listed_in, _blocks(file, hashed)):
                if listed is None or not months.add(listed):
                    _refuse(file)
            digests[POPULATION] = hashed.hexdigest()
            file.seek(0)
            kept = list(parse_population(_blocks(file, sha256()))) if keep else []
    except FileNotFoundError:
        return [], []  # which is found where the files are compared
    except VerificationError as error:
        return [], [*months.findings, Finding(code="population-malformed", where=POPULATION, message=str(error))]
    months.look_for_missing()
    return kept, months.findings


class _Months:
    """The account-months of a log, set against those that a file lists."""

    def __init__(self, scopes: Scopes) -> None:
        self._scopes = scopes
        self._seen = bytearray(len(scopes))
        self._before: tuple[str, str] = ("", "")
        self.findings: list[Finding] = []

    def add(self, listed: Listed) -> bool:
        """Compare lines with the log; False where they are not behind those before them."""
        periods, commitments, accounts = map(texts_of, listed)
        first, last = (periods[0], commitments[0]), (periods[-1], commitments[-1])
        if first <= self._before:
            return False
        self._before = last
        if not self._add_all(periods, commitments, accounts):
            self._add_each(periods, commitments, accounts)
        return True

    def _add_all(self, periods: Sequence[str], commitments: Sequence[str], accounts: Sequence[str]) -> bool:
        """Take in lines if all of them are so in the log, without a look at each; False, and nothing is taken in, where any may not be."""
        numbers = self._scopes.numbers(commitments)
        if numbers is None or self._scopes.accounts_of(numbers) != accounts:
            return False
        if any(month != period for month, period in self._scopes.months_beside(numbers, periods)):
            return False
        for number in numbers:
            self._seen[number] = True
        return True

    def _add_each(self, periods: Sequence[str], commitments: Sequence[str], accounts: Sequence[str]) -> None:
        for period, commitment, account in zip(periods, commitments, accounts, strict=True):
            number = self._scopes.number(commitment)
            if number is not None and self._scopes.month(number) == period:
                self._seen[number] = True
                if self._scopes.accounts[number] == account:
                    continue
            self._find("population-unknown", f"account-month {commitment} of {period} is not so in the log")

    def look_for_missing(self) -> None:
        """Note what the log has, and no line. Whatever was seen is an account-month, so that none is missing where they are as many."""
        if self._seen.count(True) == self._scopes.account_months():
            return
        for number, seen in enumerate(self._seen):
            if not seen and (period := self._scopes.month(number)) is not None:
                commitment = self._scopes.commitments[number]
                self._find(
                    "population-incomplete",
                    f"account-month {commitment} of {period} is in the log, and its salt is not here",
                )

    def _find(self, code: str, message: str) -> None:
        self.findings.append(Finding(code=code, where=POPULATION, message=message))


def _refuse(file: BinaryIO) -> NoReturn:
    """Read a file once more, line by line: its `VerificationError` says which is wrong."""
    file.seek(0)
    for _ in parse_population(_blocks(file, sha256())):
        continue
    raise VerificationError("it read otherwise the second time")


def _blocks(file: BinaryIO, hashed: Hash) -> Iterator[bytes]:
    """Give a file's bytes, whole lines of them, and hash them: in a large log they are more than is to be held in memory."""
    while block := b"".join(file.readlines(BLOCK_BYTES)):
        hashed.update(block)
        yield block
