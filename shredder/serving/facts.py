"""The call of the platform: what happened to accounts, users, contacts and business years. Nothing is destroyed by it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from msgspec import Raw

from keyvault.errors import BatchRefusedError, InvalidInputError
from keyvault.home import Home
from keyvault.service.access import Caller
from keyvault.service.calls import Call
from keyvault.service.failures import to_wire
from keyvault.service.wire import ItemProblem
from keyvault.tokens import Role
from shredder.fact_lines import Frame, Report, parse_line
from shredder.policy import Policy
from shredder.policy_file import home_policy
from shredder.reporting import record_facts
from shredder.serving.wire import Facts, FactsAnswer


def fact_calls(home: Home) -> list[Call]:
    """Return the platform's calls."""
    desk = FactDesk(home)
    return [
        Call(
            path="/v1/facts",
            role=Role.PLATFORM,
            asked=Facts,
            answered=FactsAnswer,
            work=desk.record,
            summary="Record facts, and suspend or resume the scopes that they are about.",
        )
    ]


class FactDesk:
    """Records facts in a home. Thread-safe."""

    def __init__(self, home: Home) -> None:
        """Record in `home`, which the caller closes."""
        self._home = home

    def record(self, _caller: Caller, body: Facts) -> FactsAnswer:
        """Record what is well-formed. `BatchRefusedError` if something is not and the caller is strict."""
        policy = home_policy(self._home)
        reports, malformed = self._read(body.facts, policy)
        if malformed and body.strict:
            raise BatchRefusedError(f"{len(malformed)} facts are malformed, so nothing was recorded", malformed)
        wait = timedelta(days=policy.facts_days) if body.wait_hours is None else timedelta(hours=body.wait_hours)
        done = record_facts(self._home, policy, reports, wait)
        return FactsAnswer(
            new=done.new,
            known=done.known,
            subjects_changed=done.subjects,
            scopes_suspended=done.standing.suspended,
            scopes_resumed=done.standing.resumed,
            malformed=[ItemProblem(index=index, error=to_wire(error)) for index, error in malformed],
        )

    def _read(self, facts: Sequence[Raw], policy: Policy) -> tuple[list[Report], list[tuple[int, InvalidInputError]]]:
        skew = timedelta(seconds=self._home.settings.clock_skew)
        frame = Frame(policy=policy, now=self._home.clock.now(), clock_skew=skew)
        read = [(index, parse_line(bytes(fact), frame)) for index, fact in enumerate(facts)]
        reports = [content for _, content in read if isinstance(content, Report)]
        return reports, [(index, content) for index, content in read if isinstance(content, InvalidInputError)]
