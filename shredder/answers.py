"""The policy's words for a request that it refused: what is shown to who asked, and what is sent back. Pure."""

from __future__ import annotations

from typing import NamedTuple

from shredder.policy import Policy, Reason


class Words(NamedTuple):
    """Why a request is refused, and the sentence to send back; None where no reason of the policy's is behind it."""

    text: str | None
    reply: str | None


def words_of(policy: Policy, refusal: str | None) -> Words:
    """Return the policy's words for the code of a refusal."""
    if refusal not in set(Reason):
        return Words(None, None)
    words = policy.refusals[Reason(refusal)]
    return Words(words.text, words.reply.replace("{contact}", policy.contact))
