"""How long a clinic keeps what it knows of a person, where strangers were, and who registered and never came back: one
policy for each organization.

In: years, months and days. Out: events, and the day on which a record is due. As shipped, ten years after the last
visit, which is what § 630f(3) BGB asks; many states of the USA ask for seven to ten. The log itself, which is the audit
trail, stays (45 CFR 164.316(b)(2): six years at least); what is erased in it are words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Annotated, ClassVar, Final
from uuid import UUID

from pydantic import Field, StringConstraints

from domain.events import Event

# 45 CFR 164.316(b)(2)(i) asks for six years of what shows compliance, a person's history of looks and answers included.
SHORTEST_YEARS: Final = 6
STREAM: Final = "retention/policy"

Years = Annotated[int, Field(ge=SHORTEST_YEARS, le=100)]


# After the end of their month. Six years, as what shows compliance; fewer where no such rule holds, since the events
# stay, and what goes is where somebody was who never said who they are (docs/decisions/0153).
Months = Annotated[int, Field(ge=1, le=1200)]
STRANGERS_AS_SHIPPED: Final = 12 * SHORTEST_YEARS
# After a registration whose address nobody has shown to be theirs. There is no patient, and nothing that must be kept.
Days = Annotated[int, Field(ge=1, le=3650)]
UNVERIFIED_AS_SHIPPED: Final = 30
Month = Annotated[str, StringConstraints(pattern=r"^\d{4}-(0[1-9]|1[0-2])$")]


class RetentionPolicySet(Event):
    NAME: ClassVar[str] = "RetentionPolicySet.v1"
    years_after_last_visit: Years
    months_of_strangers: Months = STRANGERS_AS_SHIPPED
    days_of_unverified: Days = UNVERIFIED_AS_SHIPPED


class StrangersForgotten(Event):
    """Where strangers of one month were is to be forgotten; the key that seals it is destroyed then."""

    NAME: ClassVar[str] = "StrangersForgotten.v1"
    month: Month


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """`forgotten` are the months whose strangers are."""

    years_after_last_visit: int = 10
    months_of_strangers: int = STRANGERS_AS_SHIPPED
    days_of_unverified: int = UNVERIFIED_AS_SHIPPED
    forgotten: frozenset[str] = frozenset()


AS_SHIPPED: Final = RetentionPolicy()


def stream(organization: UUID | None = None) -> str:
    """There is one in each organization."""
    return STREAM


def evolve(state: RetentionPolicy | None, event: Event) -> RetentionPolicy:
    policy = state or AS_SHIPPED
    match event:
        case RetentionPolicySet():
            return replace(
                policy,
                years_after_last_visit=event.years_after_last_visit,
                months_of_strangers=event.months_of_strangers,
                days_of_unverified=event.days_of_unverified,
            )
        case StrangersForgotten():
            return replace(policy, forgotten=policy.forgotten | {event.month})
    raise TypeError(f"{type(event).__name__} is not an event of a retention policy")


def kept_until(policy: RetentionPolicy, last_visit: date) -> date:
    """The first day on which the record need not be kept any more."""
    return _years_after(last_visit, policy.years_after_last_visit)


def strangers_kept_until(policy: RetentionPolicy, month: str) -> date:
    """The first day on which nobody needs to know any more where the strangers of a month (`2026-11`) were."""
    year, number = map(int, month.split("-"))
    months = year * 12 + number + policy.months_of_strangers
    return date(months // 12, months % 12 + 1, 1)


def unverified_kept_until(policy: RetentionPolicy, registered: date) -> date:
    """The first day on which nobody waits any more for whoever registered to show that the address is theirs."""
    return registered + timedelta(days=policy.days_of_unverified)


def accounted_until(disclosed: date) -> date:
    """The first day on which nobody may ask any more to whom something was disclosed (45 CFR 164.528(a)(1))."""
    return _years_after(disclosed, SHORTEST_YEARS)


def _years_after(day: date, years: int) -> date:
    try:
        return day.replace(year=day.year + years)
    except ValueError:  # 29 February
        return date(day.year + years, 3, 1)
