"""A look at somebody's personal data: who saw what of whom is an event as any other (45 CFR 164.312(b)).

In: an answer that is about to leave. Out: an event for each patient that it shows; who looked, for whom and why stands
beside it in the log's columns. Each look is a stream of its own, named after the patient and in order of time, so a
patient's looks are found by their names alone, and two looks never wait for each other.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, Final
from uuid import UUID

from domain.access import Role
from domain.events import Event
from domain.time import first_id


class Screen(StrEnum):
    """What was shown. `log` is the event log itself, read with its seals open."""

    APPOINTMENT = "appointment"
    APPOINTMENTS = "appointments"
    PROVIDER_DAY = "provider_day"
    PROVIDER_WEEK = "provider_week"
    PAGE = "page"
    FREE_TIMES = "free_times"
    PATIENT = "patient"
    PATIENT_SEARCH = "patient_search"
    PRIVATE_WORDS = "private_words"
    CONSENTS = "consents"
    PROXIES = "proxies"
    GLASS = "glass"
    PERSONAL_EXPORT = "personal_export"
    LOOKS = "looks"
    DISCLOSURES = "disclosures"
    SUSPICIOUS = "suspicious"
    LOG = "log"
    LOG_EXPORT = "log_export"


# Screens that show many patients at once, and are asked for again and again while they stand open: what they show of
# a patient is written once a minute for each asker and purpose. A look at one record is always written.
LISTS: Final = frozenset(
    {Screen.PROVIDER_DAY, Screen.PROVIDER_WEEK, Screen.FREE_TIMES, Screen.PATIENT_SEARCH, Screen.SUSPICIOUS}
)


# Further apart than this no two clocks of an installation are: their tokens would not be taken any more.
SKEW: Final = timedelta(days=1)


class RecordSeen(Event):
    """`role` is the looker's at that moment, `client_id` the programme that they used, where one signed in for them.
    `resource_id` is the single thing that was shown (an appointment), or whose list it was (a provider). `behind_glass`
    says that nothing but a broken glass let them (45 CFR 164.312(a)(2)(ii))."""

    NAME: ClassVar[str] = "RecordSeen.v1"
    QUIET: ClassVar[bool] = True
    patient_id: UUID
    screen: Screen
    role: Role
    client_id: str | None = None
    resource_id: UUID | None = None
    behind_glass: bool = False


class LogUnsealed(Event):
    """Somebody at the command line read the log itself with its seals open: so many events between two positions, of so
    many persons. The look at each patient among them stands beside it."""

    NAME: ClassVar[str] = "LogUnsealed.v1"
    unsealing_id: UUID
    screen: Screen
    events: int
    persons: int
    first: int
    last: int


def unsealing_stream(unsealing_id: UUID) -> str:
    return f"unsealing/{unsealing_id}"


def stream(patient_id: UUID, look_id: UUID) -> str:
    """`look_id` is a UUIDv7, so that names are in the order of time."""
    return f"look/{patient_id}/{look_id}"


def streams_of(patient_id: UUID, first: datetime | None = None, last: datetime | None = None) -> tuple[str, str]:
    """The first and the last name that a look at this patient can have; where two instants are given, one that was true
    between them.

    Whoever looked made the look's id by the clock of their own machine, and it was true by the database's: a `SKEW` is
    left for both, so some names are of looks shortly before or after."""
    begin = "" if first is None else str(first_id(first - SKEW))
    end = "~" if last is None else str(first_id(last + SKEW))
    return f"look/{patient_id}/{begin}", f"look/{patient_id}/{end}"
