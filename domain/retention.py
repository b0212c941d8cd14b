"""How long a clinic keeps what it knows of a person: one policy for each organization.

In: years. Out: events, and the day on which a record is due. As shipped, ten years after the last visit, which is what
§ 630f(3) BGB asks; many states of the USA ask for seven to ten. The log itself, which is the audit trail, stays (45 CFR
164.316(b)(2): six years at least); what is erased in it are words.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, ClassVar, Final
from uuid import UUID

from pydantic import Field

from domain.events import Event

# 45 CFR 164.316(b)(2)(i) asks for six years of what shows compliance, a person's history of looks and answers included.
SHORTEST_YEARS: Final = 6
STREAM: Final = "retention/policy"

Years = Annotated[int, Field(ge=SHORTEST_YEARS, le=100)]


class RetentionPolicySet(Event):
    NAME: ClassVar[str] = "RetentionPolicySet.v1"
    years_after_last_visit: Years


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    years_after_last_visit: int = 10


AS_SHIPPED: Final = RetentionPolicy()


def stream(organization: UUID | None = None) -> str:
    """There is one in each organization."""
    return STREAM


def evolve(state: RetentionPolicy | None, event: Event) -> RetentionPolicy:
    match event:
        case RetentionPolicySet():
            return RetentionPolicy(event.years_after_last_visit)
    raise TypeError(f"{type(event).__name__} is not an event of a retention policy")


def kept_until(policy: RetentionPolicy, last_visit: date) -> date:
    """The first day on which the record need not be kept any more."""
    return _years_after(last_visit, policy.years_after_last_visit)


def accounted_until(disclosed: date) -> date:
    """The first day on which nobody may ask any more to whom something was disclosed (45 CFR 164.528(a)(1))."""
    return _years_after(disclosed, SHORTEST_YEARS)


def _years_after(day: date, years: int) -> date:
    try:
        return day.replace(year=day.year + years)
    except ValueError:  # 29 February
        return date(day.year + years, 3, 1)
