"""The lines of keys, told as a person who looks for them would."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shredder.toml_lines import Key, key_lines

TEXT = '''# a comment = 1, [not.a.table]
title = "a # that is no comment, and a = that is none"

[limits]   # here
scopes = 10
"per cent".'of all' = 5
inline = { first = 1, second.third = [2, { fourth = 3 }], "]" = "}" }
lists = [
  "one",  # two = 2
  "three",
]
days = 2026-11-24 12:00:00
many = """
[nothing] = "here"
\\""" quotes = 1 """"
literal = \'\'\'
also = 'nothing'\'\'\'
"" = "an empty name"

[[rows]]
a.b = 1
[[rows]]
c = 2
[limits.nested . "deep\\u0065r"]
last = -1.5e3'''

LINES: dict[Key, int] = {
    ("title",): 2,
    ("limits",): 4,
    ("limits", "scopes"): 5,
    ("limits", "per cent"): 6,
    ("limits", "per cent", "of all"): 6,
    ("limits", "inline"): 7,
    ("limits", "inline", "first"): 7,
    ("limits", "inline", "second"): 7,
    ("limits", "inline", "second", "third"): 7,
    ("limits", "inline", "second", "third", "fourth"): 7,
    ("limits", "inline", "]"): 7,
    ("limits", "lists"): 8,
    ("limits", "days"): 12,
    ("limits", "many"): 13,
    ("limits", "literal"): 16,
    ("limits", ""): 18,
    ("rows",): 20,
    ("rows", "a"): 21,
    ("rows", "a", "b"): 21,
    ("rows", "c"): 23,
    ("limits", "nested"): 24,
    ("limits", "nested", "deeper"): 24,
    ("limits", "nested", "deeper", "last"): 25,
}


def keys(value: Any, key: Key = ()) -> Iterator[Key]:
    """Yield the keys that `tomllib` finds, spelt as `key_lines` spells them."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield (*key, name)
            yield from keys(item, (*key, name))
    elif isinstance(value, list):
        for item in value:
            yield from keys(item, key)


def test_every_spelling() -> None:
    assert key_lines(TEXT) == LINES
    assert set(keys(tomllib.loads(TEXT))) == set(LINES)


def test_lines_may_end_as_windows_ends_them() -> None:
    assert key_lines(TEXT.replace("\n", "\r\n")) == LINES


def test_every_key_of_the_built_in_policy_has_the_line_that_begins_with_it() -> None:
    text = (files("shredder") / "policy.toml").read_text()
    lines = key_lines(text)
    assert set(lines) == set(keys(tomllib.loads(text)))
    written = text.splitlines()
    for key, line in lines.items():
        if key not in {("categories",), ("refusals",)}:  # implied by the first table within
            assert written[line - 1].startswith((f"{key[-1]} =", f"[{'.'.join(key)}]")), key


names = st.text(alphabet=st.sampled_from("ab-_.=[]{}#'\" \\,\u00e9"), max_size=4)
scalars = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.sampled_from(
        ['""', "''", "true", "1.5", "1979-05-27", "'#'", '"\\""', '"""\n"x"\n"""', "'''\n'x' = 1'''", "0x1F"]
    ),
)


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.sampled_from(["scalar", "list", "table"] if depth else ["scalar"]))
    if kind == "scalar":
        return draw(scalars)
    if kind == "list":
        return "[\n" + "".join(f"  {draw(values(depth - 1))}, # ] }}\n" for _ in range(draw(st.integers(0, 2)))) + "]"
    parts = [f"{quoted(name)} = {draw(values(depth - 1))}" for name in draw(st.lists(names, unique=True, max_size=3))]
    return "{" + ", ".join(parts) + "}"


def quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@given(st.lists(st.tuples(names, values()), unique_by=lambda pair: pair[0], max_size=6), st.booleans())
def test_finds_what_tomllib_finds_where_it_was_written(pairs: list[tuple[str, str]], headed: bool) -> None:
    text, expected = "", {}
    for name, value in pairs:
        if headed:
            text += f"# x = 1\n[ {quoted(name)} ]\n"
            expected[(name,)] = text.count("\n")
            text += f"v = {value}\n"
        else:
            expected[(name,)] = text.count("\n") + 1
            text += f"{quoted(name)} = {value}\n"
    lines = key_lines(text)
    assert set(lines) == set(keys(tomllib.loads(text)))
    assert {key: lines[key] for key in expected} == expected
