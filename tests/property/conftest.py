"""How long to look: HYPOTHESIS_PROFILE=thorough looks with fresh seeds for minutes; `ci`, the default, repeats the same few runs."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("ci", derandomize=True, database=None, deadline=None, print_blob=True)
settings.register_profile("thorough", deadline=None, print_blob=True)
