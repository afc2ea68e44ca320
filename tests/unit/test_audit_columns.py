"""Columns of texts: what is put in comes out, and what stands there twice is found wherever it stands."""

from __future__ import annotations

import pytest

from shredder.audit.columns import Column, column_of, texts_of
from shredder.audit.forms import are_bytes_16, are_bytes_32, are_instants, are_months, are_uuids
from tests.entries import name16, name32, uuid

MANY = [f"{number:05}" for number in range(25_000)]


def column(texts: list[str]) -> Column:
    made = Column(5)
    for start in range(0, len(texts), 300):
        made.extend(column_of(texts[start : start + 300]))
    return made


def test_what_is_put_in_comes_out() -> None:
    made = column(MANY)
    assert [made[number] for number in (0, 1, 9_999, 24_999)] == ["00000", "00001", "09999", "24999"]
    assert (len(made), len(Column(5)), Column(5).repeated()) == (25_000, 0, [])
    assert texts_of(column_of(MANY)) == MANY
    with pytest.raises(ValueError, match="texts of 5 characters"):
        made.extend(b"123456")


@pytest.mark.parametrize(("place", "of"), [(1, 0), (24_999, 0), (24_999, 24_998), (10_000, 9_999), (10_000, 9_998)])
def test_what_stands_there_twice_is_found(place: int, of: int) -> None:
    texts = [*MANY]
    assert column(texts).repeated() == []
    texts[place] = texts[of]
    assert column(texts).repeated() == [place]


def test_places_that_stand_for_nothing_repeat_nothing() -> None:
    made = Column(5)
    for text in ("a....", None, "b....", None, "a....", None):
        made.skip() if text is None else made.extend(column_of([text]))
    assert (len(made), made.repeated()) == (6, [4])


FORMS = {
    "32 bytes": (are_bytes_32, name32("a"), ["A" * 42 + "B", "A" * 42, "A" * 44, "A" * 21 + "\n" + "A" * 21, "=" * 43]),
    "16 bytes": (are_bytes_16, name16("a"), ["A" * 21 + "B", "A" * 21, "A" * 23, "", "." * 22]),
    "UUID": (
        are_uuids,
        uuid("a"),
        [
            uuid("a").upper(),
            uuid("a").replace("-", "a"),
            uuid("a")[:14] + "5" + uuid("a")[15:],
            uuid("a")[:19] + "c" + uuid("a")[20:],
            uuid("a")[:35] + "-",
            uuid("a")[:35],
        ],
    ),
    "month": (are_months, "2026-11", ["2026-1", "2026-111", "2026/11", "20261-1", ""]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_column_is_of_a_form_when_each_text_is(form: str) -> None:
    holds, good, bad = FORMS[form]
    assert holds(column_of([good]), 1)
    assert holds(column_of([good] * 3), 3)
    assert not holds(column_of([good] * 3), 2)
    for text in bad:
        for texts in ([text], [good, text], [text, good], [good, text, good], [text + good[:1], good[1:]]):
            assert not holds(column_of(texts), len(texts)), texts


def test_instants_are_times_of_the_calendar() -> None:
    good = "2026-11-24T12:00:00.000001Z"
    assert are_instants([good])
    assert are_instants([good, good])
    for text in ("2026-02-30T00:00:00.000000Z", "2026-11-24T24:00:00.000000Z", good[:-1], good + "Z", good[:19] + "Z"):
        assert not are_instants([good, text])
        assert not are_instants([text])
