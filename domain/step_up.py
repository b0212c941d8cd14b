"""Dangerous actions ask for a sign-in that was made just now.

In: who asks, and the time. Out: nothing, or a refusal that says how fresh it must be (after RFC 9470).
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from domain.access import Actor
from domain.refusals import Refusal

FRESH: Final = timedelta(minutes=10)


class StepUpRequired(Refusal):
    """Sign in once more and ask again. `max_age` is how many seconds ago that may have been."""

    code = "step_up_required"
    status = 403


def fresh_enough(actor: Actor, now: datetime, within: timedelta = FRESH) -> None:
    """Raises `StepUpRequired`. A token that an operator minted belongs to no account, and there is nobody to ask."""
    if actor.account_id is None:
        return
    if actor.authenticated_at is None or now - actor.authenticated_at > within:
        raise StepUpRequired("sign in once more to do this", max_age=int(within.total_seconds()))
