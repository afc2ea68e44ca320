"""The policy from its text: the built-in one as the company's policy has it, and every wrong one refused with its line."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.errors import ConfigurationError
from keyvault.scopes import KIND_RULES, RETENTION_MONTHS, ScopeKind
from shredder.policy import Category, Limits, Owner, Policy, Reason, Requester, Rule
from shredder.policy_parsing import parse_policy

TEXT = (files("shredder") / "policy.toml").read_text()
LINES = TEXT.splitlines()
SOURCE = "/srv/home/policy.toml"
BUILT_IN = parse_policy(TEXT, SOURCE)


def category(kind: ScopeKind) -> Category:
    return BUILT_IN.categories[kind]


def without_digest(policy: Policy) -> Policy:
    return replace(policy, digest=bytes(32))


# --- the built-in policy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "owner", "rule", "early"),
    [
        (ScopeKind.COMMUNICATIONS, Owner.CUSTOMER, Rule.CALENDAR, {Requester.CUSTOMER}),
        (ScopeKind.CONSUMER, Owner.CUSTOMER, Rule.ACCOUNT, {Requester.CUSTOMER}),
        (ScopeKind.CUSTOMER, Owner.CUSTOMER, Rule.ACCOUNT, {Requester.CUSTOMER}),
        (ScopeKind.USER, Owner.COMPANY, Rule.USER, set()),
        (ScopeKind.MARKETING, Owner.COMPANY, Rule.CONTACT, {Requester.INDIVIDUAL}),
        (ScopeKind.BUSINESS, Owner.COMPANY, Rule.CLASS, set()),
    ],
)
def test_who_owns_what_and_who_may_ask(kind: ScopeKind, owner: Owner, rule: Rule, early: set[Requester]) -> None:
    found = category(kind)
    assert (found.owner, found.rule, set(found.early)) == (owner, rule, early)


def test_the_periods() -> None:
    months = {kind: found.months for kind, found in BUILT_IN.categories.items() if found.months is not None}
    assert months == {ScopeKind.COMMUNICATIONS: RETENTION_MONTHS, ScopeKind.USER: 13}
    grace = {kind: found.grace_days for kind, found in BUILT_IN.categories.items() if found.grace_days is not None}
    assert grace == {ScopeKind.CONSUMER: 30, ScopeKind.CUSTOMER: 30}
    classes = {kind: dict(found.classes) for kind, found in BUILT_IN.categories.items() if found.classes}
    assert classes == {ScopeKind.BUSINESS: {"accounting": 120, "tax": 84, "operations": 36}}


def test_single_records_are_of_communications_alone() -> None:
    assert {kind for kind, found in BUILT_IN.categories.items() if found.records} == {ScopeKind.COMMUNICATIONS}


def test_types_that_can_go_while_the_account_is_active() -> None:
    types = {kind: found.early_types for kind, found in BUILT_IN.categories.items() if found.early_types is not None}
    assert types == {ScopeKind.CUSTOMER: {"credentials", "greetings"}}


def test_business_records_are_refused_for_marketing() -> None:
    refused = {kind: found.refused_purposes for kind, found in BUILT_IN.categories.items()}
    assert refused == {kind: rules.refused_purposes for kind, rules in KIND_RULES.items()}
    assert refused[ScopeKind.BUSINESS] == {"marketing"}


def test_days_and_limits() -> None:
    assert (BUILT_IN.answer_days, BUILT_IN.approval_days, BUILT_IN.facts_days) == (30, 30, 7)
    assert BUILT_IN.limits == Limits(scopes=1000, percent=5, percent_from=1000, clock_jump_days=2)


def test_every_reason_has_its_words_and_a_sentence_to_send_back() -> None:
    assert set(BUILT_IN.refusals) == set(Reason)
    for refusal in BUILT_IN.refusals.values():
        assert BUILT_IN.contact in refusal.reply.format(contact=BUILT_IN.contact)
        assert refusal.text != refusal.reply
    for reason in (Reason.EXTENSION, Reason.LEGAL_HOLD):
        assert "export" in BUILT_IN.refusals[reason].reply
    assert "company that you talked to" in BUILT_IN.refusals[Reason.CONSUMER_DIRECT].reply


def test_the_digest_is_that_of_the_file() -> None:
    assert BUILT_IN.digest == sha256((files("shredder") / "policy.toml").read_bytes()).digest()


def test_nothing_in_a_policy_can_be_changed() -> None:
    for table in (BUILT_IN.categories, BUILT_IN.refusals, category(ScopeKind.BUSINESS).classes):
        with pytest.raises(TypeError):
            table["x"] = None  # type: ignore[index]


# --- what a company may change --------------------------------------------------------------------------------------


def head(table: str) -> int:
    """Return the index of a table's header."""
    return next(index for index, line in enumerate(LINES) if line.startswith(f"[{table}]"))


def changed(table: str, old: str, new: str) -> tuple[str, int]:
    """Return the text with `new` for the line that begins with `old` in a table, and that line's number."""
    start = head(table) if table else 0
    number = next(index for index in range(start, len(LINES)) if LINES[index].startswith(old))
    return "\n".join([*LINES[:number], new, *LINES[number + 1 :]]) + "\n", number + 1


def added(table: str, *new: str) -> tuple[str, int]:
    """Return the text with lines added at the head of a table, and the first one's number."""
    start = head(table) + 1
    return "\n".join([*LINES[:start], *new, *LINES[start:]]) + "\n", start + 1


@pytest.mark.parametrize("months", [1, 12, 24, 25])
def test_communications_may_be_kept_shorter(months: int) -> None:
    text, _ = changed("categories.communications", "months", f"months = {months}")
    assert parse_policy(text, SOURCE).categories[ScopeKind.COMMUNICATIONS].months == months


def test_more_purposes_may_be_refused() -> None:
    text, _ = added("categories.consumer", 'refused_purposes = ["training", "marketing"]')
    assert parse_policy(text, SOURCE).categories[ScopeKind.CONSUMER].refused_purposes == {"training", "marketing"}


def test_nobody_may_be_let_ask() -> None:
    text, _ = changed("categories.consumer", "early", "early = []")
    assert parse_policy(text, SOURCE).categories[ScopeKind.CONSUMER].early == frozenset()


@pytest.mark.parametrize("asking", ["company", "individual", "user"])
def test_over_its_own_data_the_company_may_let_others_ask(asking: str) -> None:
    text, _ = changed("categories.user", "early", f'early = ["{asking}"]')
    assert parse_policy(text, SOURCE).categories[ScopeKind.USER].early == {Requester(asking)}


def test_tables_may_be_written_inline_and_keys_dotted() -> None:
    head, _, rest = TEXT.partition("[limits]\n")
    _, _, rest = rest.partition("\n[categories.communications]")
    inline = f"limits = {{ scopes = 1000, percent = 5, percent_from = 1000, clock_jump_days = 2 }}\n[categories.communications]{rest}"
    dotted = (
        "limits.scopes = 1000\nlimits.percent = 5\nlimits.percent_from = 1_000\nlimits.'clock_jump_days' = 0x2\n"
        f"[categories.communications]{rest}"
    )
    for written in (inline, dotted):
        assert without_digest(parse_policy(head + written, SOURCE)) == without_digest(BUILT_IN)


# --- what is refused, with its line -----------------------------------------------------------------------------------

COMMUNICATIONS, CONSUMER, CUSTOMER = "categories.communications", "categories.consumer", "categories.customer"
USER, MARKETING, BUSINESS = "categories.user", "categories.marketing", "categories.business"
REFUSAL = "refusals.legal-hold"

CHANGES = [
    # numbers
    *(
        (
            COMMUNICATIONS,
            "months",
            f"months = {value}",
            "months must be a whole number from 1 to 25: no communications are",
        )
        for value in (
            "26",
            "60",
            "0",
            "-1",
            "25.0",
            "true",
            '"25"',
            "inf",
            "[25]",
            "2026-11-24",
            "9" * 400,
            "0x" + "F" * 9000,
        )
    ),
    *(
        (USER, "months", f"months = {value}", "months must be a whole number from 1 to 1200")
        for value in ("0", "-13", "1201", "13.5", "nan", "false", "{}")
    ),
    (CONSUMER, "grace_days", "grace_days = 0", "grace_days must be a whole number from 1 to 3650"),
    (CONSUMER, "grace_days", "grace_days = 3651", "grace_days must be a whole number from 1 to 3650"),
    (f"{BUSINESS}.classes", "tax", "tax = 0", "classes.tax must be a whole number from 1 to 1200"),
    (f"{BUSINESS}.classes", "tax", "tax = true", "classes.tax must be a whole number from 1 to 1200"),
    (f"{BUSINESS}.classes", "tax", '"Tax law" = 84', 'classes."Tax law" is no name for a class'),
    (f"{BUSINESS}.classes", "tax", '"" = 84', 'classes."" is no name for a class'),
    ("", "answer_days", "answer_days = 366", "answer_days must be a whole number from 1 to 365"),
    ("", "approval_days", "approval_days = 0", "approval_days must be a whole number from 1 to 365"),
    ("", "facts_days", "facts_days = -7", "facts_days must be a whole number from 1 to 365"),
    ("limits", "scopes", "scopes = 0", "limits.scopes must be a whole number from 1 to 1000000000"),
    ("limits", "scopes", "scopes = 1000000001", "limits.scopes must be a whole number from 1 to 1000000000"),
    ("limits", "percent ", "percent = 101", "limits.percent must be a whole number from 1 to 100"),
    ("limits", "percent ", "percent = 0", "limits.percent must be a whole number from 1 to 100"),
    ("limits", "percent_from", "percent_from = 0", "limits.percent_from must be a whole number from 1 to 1000000000"),
    ("limits", "clock_jump_days", "clock_jump_days = 366", "clock_jump_days must be a whole number from 1 to 365"),
    # texts
    ("", "version", 'version = ""', "version is empty"),
    ("", "version", "version = 7", "version must be a text in quotes"),
    ("", "version", f'version = "{"v" * 65}"', "version must have no more than 64 characters"),
    ("", "version", r'version = "a\u0000b"', "version holds a control character"),
    ("", "contact", 'contact = "  "', "contact is empty"),
    ("", "contact", r'contact = "a@example.com\nBcc: b"', "contact holds a control character"),
    ("", "contact", 'contact = "a\u202eb"', "contact holds a control character, a line break or something invisible"),
    (CONSUMER, "name", 'name = ""', "categories.consumer.name is empty"),
    (REFUSAL, "text", 'text = ""', "refusals.legal-hold.text is empty"),
    (REFUSAL, "reply", 'reply = ""', "refusals.legal-hold.reply is empty"),
    (REFUSAL, "reply", 'reply = "Ask {name}."', r"reply has a placeholder other than \{contact\}"),
    (REFUSAL, "reply", 'reply = "Ask {}."', "reply has a placeholder other than"),
    (REFUSAL, "reply", 'reply = "Ask {contact.real}."', "reply has a placeholder other than"),
    (REFUSAL, "reply", 'reply = "Ask {contact!r}."', "reply has a placeholder other than"),
    (REFUSAL, "reply", 'reply = "Ask {contact:{contact}}."', "reply has a placeholder other than"),
    (REFUSAL, "reply", 'reply = "Ask {contact."', "reply has a brace too many or too few"),
    (REFUSAL, "text", 'text = "Ask }."', "text has a brace too many or too few"),
    (REFUSAL, "text", f'text = "{"t" * 1001}"', "text must have no more than 1000 characters"),
    # owners, rules, and who may ask
    (CONSUMER, "owner", 'owner = "consumer"', "owner must be one of customer, company"),
    (CONSUMER, "owner", "owner = []", "owner must be one of customer, company"),
    (CONSUMER, "rule", 'rule = "never"', "rule must be one of calendar, account, user, contact, class"),
    *(
        (table, "rule", 'rule = "calendar"', 'cannot be "calendar": a .* scope has no month to count from')
        for table in (CONSUMER, CUSTOMER, USER, MARKETING, BUSINESS)
    ),
    (COMMUNICATIONS, "rule", 'rule = "account"', 'a communications scope is decided by rule = "calendar"'),
    (CONSUMER, "rule", 'rule = "user"', 'a consumer scope is decided by rule = "account"'),
    (MARKETING, "rule", 'rule = "class"', 'a marketing scope is decided by rule = "contact"'),
    *(
        (table, "early", 'early = ["consumer"]', 'early cannot name "consumer": no request is taken from a consumer')
        for table in (COMMUNICATIONS, CONSUMER, CUSTOMER, USER, MARKETING, BUSINESS)
    ),
    (
        COMMUNICATIONS,
        "early",
        'early = ["customer", "individual"]',
        'cannot name "individual": the owner is the customer',
    ),
    (CONSUMER, "early", 'early = ["company"]', 'cannot name "company": the owner is the customer'),
    (CUSTOMER, "early ", 'early = ["user"]', 'cannot name "user": the owner is the customer'),
    (MARKETING, "early", 'early = ["customer"]', 'cannot name "customer": the owner is the company'),
    (USER, "early", 'early = ["admin"]', "early may list customer, consumer, individual, company, user, nothing else"),
    (USER, "early", 'early = "user"', "early must be a list of texts in quotes"),
    (USER, "early", "early = [1]", "early must be a list of texts in quotes"),
    (USER, "early", 'early = ["user", "user"]', "early names something twice"),
    (CUSTOMER, "early ", "early = []", "early_types says for what, and `early` names nobody"),
    (CUSTOMER, "early_types", "", "early_types is missing"),
    (CUSTOMER, "early_types", 'early_types = ["."]', "early_types lists what cannot stand in a scope's name"),
    (CUSTOMER, "early_types", r'early_types = ["a\u0007"]', "early_types holds a control character"),
    (COMMUNICATIONS, "early", "early = []", "records can be asked for by nobody"),
    (COMMUNICATIONS, "records", 'records = "yes"', "records must be true or false"),
    (
        BUSINESS,
        "refused_purposes",
        "",
        'refused_purposes must name "marketing": business scopes are never used for that',
    ),
    (BUSINESS, "refused_purposes", "refused_purposes = []", 'must name "marketing"'),
    (BUSINESS, "refused_purposes", f"refused_purposes = {[str(n) for n in range(101)]}", "no more than 100 names"),
]

ADDITIONS = [
    (CONSUMER, "months = 25", 'months does not go with rule = "account"'),
    (COMMUNICATIONS, "grace_days = 30", 'grace_days does not go with rule = "calendar"'),
    (COMMUNICATIONS, "classes = { tax = 1 }", 'classes does not go with rule = "calendar"'),
    (MARKETING, "months = 1", 'months does not go with rule = "contact"'),
    (MARKETING, "grace_days = 1", 'grace_days does not go with rule = "contact"'),
    (BUSINESS, "months = 84", 'months does not go with rule = "class"'),
    (USER, "grace_days = 1", 'grace_days does not go with rule = "user"'),
    (CONSUMER, 'early_types = ["name"]', "early_types does not go with consumer scopes, which have no types"),
    (CONSUMER, "records = true", "records does not go with consumer scopes"),
    (CONSUMER, "montsh = 25", "categories.consumer.montsh is not known here; known are name, owner"),
    (CONSUMER, '"a\\u0000b" = 1', r'categories.consumer."a\\u0000b" is not known here'),
    ("limits", "scope = 1", "limits.scope is not known here"),
    (REFUSAL, 'answer = "no"', "refusals.legal-hold.answer is not known here"),
]


def refused(text: str, line: int, rule: str) -> None:
    with pytest.raises(ConfigurationError, match=rule) as raised:
        parse_policy(text, SOURCE)
    assert str(raised.value).startswith(f"{SOURCE}, line {line}: ")


@pytest.mark.parametrize(("table", "old", "new", "rule"), CHANGES)
def test_a_wrong_value_is_refused_at_its_line(table: str, old: str, new: str, rule: str) -> None:
    text, line = changed(table, old, new)
    if "early_types says" in rule or "asked for by nobody" in rule:  # it is the next line that makes no sense any more
        line += 1
    elif not new:  # what is missing is missing from its table
        line = LINES.index(f"[{table}]") + 1
    refused(text, line, rule)


@pytest.mark.parametrize(("table", "new", "rule"), ADDITIONS)
def test_what_does_not_belong_is_refused_at_its_line(table: str, new: str, rule: str) -> None:
    text, line = added(table, new)
    refused(text, line, rule)


@pytest.mark.parametrize(
    ("table", "key", "name"),
    [
        ("", "version", "version"),
        ("", "contact", "contact"),
        ("", "facts_days", "facts_days"),
        (COMMUNICATIONS, "months", "categories.communications.months"),
        (COMMUNICATIONS, "name", "categories.communications.name"),
        (COMMUNICATIONS, "owner", "categories.communications.owner"),
        (COMMUNICATIONS, "rule", "categories.communications.rule"),
        (COMMUNICATIONS, "early", "categories.communications.early"),
        (CONSUMER, "grace_days", "categories.consumer.grace_days"),
        (USER, "months", "categories.user.months"),
        ("limits", "percent ", "limits.percent"),
        (REFUSAL, "reply", "refusals.legal-hold.reply"),
    ],
)
def test_what_is_missing_is_said_at_its_table(table: str, key: str, name: str) -> None:
    text, _ = changed(table, key, "")
    line = LINES.index(f"[{table}]") + 1 if table else 1
    refused(text, line, rf"{re.escape(name)} is missing$")


def without_table(*tables: str) -> str:
    """Return the text without these tables."""
    kept, keep = [], True
    for line in LINES:
        if line.startswith("["):
            keep = line.partition("]")[0][1:] not in tables
        kept.append(line if keep else "")
    return "\n".join(kept) + "\n"


@pytest.mark.parametrize("table", [*(f"categories.{kind}" for kind in ScopeKind if kind != "business"), "limits"])
def test_no_table_may_be_missing(table: str) -> None:
    line = (
        1
        if table == "limits"
        else next(n for n, text in enumerate(without_table(table).splitlines(), 1) if text.startswith("[categories"))
    )
    refused(without_table(table), line, rf"{table} is missing$")


@pytest.mark.parametrize("reason", Reason)
def test_no_refusal_may_be_missing(reason: Reason) -> None:
    text = without_table(f"refusals.{reason}")
    line = next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith("[refusals"))
    refused(text, line, rf"refusals.{reason} is missing$")


def test_business_needs_classes_and_at_least_one() -> None:
    text = without_table("categories.business.classes")
    refused(text, LINES.index("[categories.business]") + 1, "categories.business.classes is missing$")
    empty = text.replace("[refusals.consumer-direct]", "[categories.business.classes]\n[refusals.consumer-direct]")
    refused(empty, LINES.index("[refusals.consumer-direct]") + 1, "classes must name 1 to 100 classes$")
    many = empty.replace("business.classes]\n", "business.classes]\n" + "".join(f"c{n} = 1\n" for n in range(101)))
    refused(many, LINES.index("[refusals.consumer-direct]") + 1, "classes must name 1 to 100 classes$")


@pytest.mark.parametrize(
    ("new", "rule"),
    [
        ("[categories.employee]\n", "categories.employee is not known here; known are communications"),
        ("[refusals.because]\n", "refusals.because is not known here; known are consumer-direct"),
        ("[extra]\n", "extra is not known here; known are version"),
        ("[[categories.extra]]\n", "categories.extra is not known here"),
    ],
)
def test_an_unknown_table_is_refused_at_its_line(new: str, rule: str) -> None:
    refused(TEXT + new, len(LINES) + 1, rule)


def test_a_table_must_be_one() -> None:
    refused("limits = 1\n" + without_table("limits"), 1, "limits must be a table$")
    refused("categories = []\n", 1, "is missing$|must be a table$")
    text = without_table("categories.consumer").replace("[limits]", "[categories]\nconsumer = 1\n[limits]")
    refused(text, LINES.index("[limits]") + 2, "categories.consumer must be a table$")


def test_a_list_of_tables_is_none() -> None:
    text = TEXT.replace("[categories.user]", "[[categories.user]]")
    refused(text, LINES.index("[categories.user]") + 1, "categories.user must be a table$")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("version = \n", 1),
        ("\n\nversion == 1\n", 3),
        ('version = "a"\nversion = "b"\n', 2),
        ("[limits]\n[limits]\n", 2),
        ('\nversion = "never closed\n', 2),
        ('\nversion = """never closed\n\n', 4),
        ("x = 1\n<html>", 2),
        ("\ufeffversion = 1", 1),
        ("x = " + "[" * 100_000, 1),
        ("x = 1\nversion = " + "9" * 5000, 2),
        ("x = '\ud800'", 1),
    ],
)
def test_what_is_not_toml_is_refused_at_its_line(text: str, line: int) -> None:
    refused(text, line, "this is not TOML: ")


def test_a_duplicate_is_found_in_the_whole_file() -> None:
    text, line = added(USER, "months = 13")
    second = next(n for n in range(line, len(LINES) + 2) if text.splitlines()[n].startswith("months")) + 1
    refused(text, second, "this is not TOML: Cannot overwrite a value")


# --- damage -----------------------------------------------------------------------------------------------------------


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """The built-in policy, with up to three places cut out, doubled, or written over."""
    text = TEXT
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 40)))
        new = draw(
            st.one_of(
                st.just(""),
                st.just(text[start:end] * 2),
                st.text(max_size=6),
                st.sampled_from(
                    ["0", "-", "99999", "[", "]", '"', "'", "{", "}", "=", ".", "#", "\n", "\\", "true", '"""', "\x00"]
                ),
            )
        )
        text = text[:start] + new + text[end:]
    return text


@given(damaged())
def test_damage_is_refused_or_changes_what_may_change(text: str) -> None:
    try:
        policy = parse_policy(text, SOURCE)
    except ConfigurationError as error:
        message = str(error)
    else:
        message = ""
        keeps_what_no_policy_gives_up(policy)
        if tomllib.loads(text) == tomllib.loads(TEXT):
            assert without_digest(policy) == without_digest(BUILT_IN)
    if message:
        found = re.match(rf"{SOURCE}, line (\d+): ", message)
        assert found
        assert 1 <= int(found[1]) <= text.count("\n") + 1
        assert message.isprintable()


def keeps_what_no_policy_gives_up(policy: Policy) -> None:
    months = policy.categories[ScopeKind.COMMUNICATIONS].months
    assert months is not None
    assert 1 <= months <= RETENTION_MONTHS
    assert not any(Requester.CONSUMER in found.early for found in policy.categories.values())
    assert "marketing" in policy.categories[ScopeKind.BUSINESS].refused_purposes


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{SOURCE}, line \d+: "):
        parse_policy(text, SOURCE)
