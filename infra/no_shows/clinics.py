"""Makes a clinic of a neighbourhood. In: its rows. Out: the hours, and as many providers as its load needs.

A visit that was booked on its own day takes a time from then on, every other one any time of its day. So the visits
that need a time from `t` on are the day's walk-ins since `t`, and with the hours alike for all providers they fit
exactly when, for every `t`, there are no more of them than times from `t` on (Hall's condition for nested choices; the
earliest free time is then always a right choice).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from typing import Final
from uuid import UUID, uuid5

from commands.history import OpenClinic, Practitioner
from domain.provider import BookingRules, Location, VisitType, WallInterval, WeeklyHours
from domain.time import instant_of, zone
from infra.no_shows.table import Row

TIME_ZONE: Final = "America/Sao_Paulo"
COUNTRY: Final = "BR"
SUBDIVISION: Final = "ES"

_NAMES: Final = UUID("3a8f2b56-54b7-5d1e-8a34-6d2f0a1c9e77")
_VISIT_MINUTES: Final = 15
_OPENS: Final = 8 * 60
_CLOSES: Final = 17 * 60
_MIDNIGHT: Final = 24 * 60
_WAITING: Final = 60
# Spare providers, of every ten needed: a patient with several visits a day can't take every free time.
_SPARE: Final = 10


def name_of(kind: str, *parts: object) -> UUID:
    """The id of a thing that the table names: the same for the same name, whatever file it stands in."""
    return uuid5(_NAMES, "/".join((kind, *map(str, parts))))


VISIT_TYPE: Final = VisitType(id=name_of("visit type"), name="Visit", duration_minutes=_VISIT_MINUTES)


def instant_at(wall: datetime) -> datetime:
    """The instant of a clinic's wall time."""
    return instant_of(wall.date(), wall.time(), zone(TIME_ZONE))


def clinic(neighbourhood: str, rows: Sequence[Row]) -> OpenClinic:
    """The command that opens the clinic of a neighbourhood, of at least one row."""
    walk_ins = [_minute(row) for row in rows if row.lead_days == 0]
    opens = min([_OPENS, *walk_ins]) // 60 * 60
    closes = min(_MIDNIGHT, -(-max(_CLOSES, *_done_by(rows)) // 60) * 60)
    hours = WallInterval(start=_wall(opens), end=_wall(closes))
    wanted = {row.day.weekday() for row in rows}
    needed = _providers(rows, range(opens, closes, _VISIT_MINUTES))
    needed += -(-needed // _SPARE)
    return OpenClinic(
        location=Location(
            id=name_of("clinic", neighbourhood),
            name=neighbourhood,
            time_zone=TIME_ZONE,
            country=COUNTRY,
            subdivision=SUBDIVISION,
        ),
        visit_type=VISIT_TYPE,
        rules=BookingRules(slot_step_minutes=_VISIT_MINUTES, horizon_days=1100),
        hours=WeeklyHours(
            **{name: (hours,) for weekday, name in enumerate(WeeklyHours.model_fields) if weekday in wanted}
        ),
        providers=tuple(
            Practitioner(provider_id=name_of("provider", neighbourhood, number), name=f"{neighbourhood} {number}")
            for number in range(1, needed + 1)
        ),
        since=instant_at(min(row.scheduled for row in rows)),
    )


def _done_by(rows: Iterable[Row]) -> Iterator[int]:
    """When a patient who walks in can be through with all visits of the day, in a row, after some waiting."""
    last: dict[tuple[str, date], int] = {}
    visits: Counter[tuple[str, date]] = Counter()
    for row in rows:
        visits[row.patient, row.day] += 1
        if row.lead_days == 0:
            last[row.patient, row.day] = max(_minute(row), last.get((row.patient, row.day), 0))
    yield 0
    for key, minute in last.items():
        yield minute + _WAITING + visits[key] * _VISIT_MINUTES


def _providers(rows: Iterable[Row], starts: Sequence[int]) -> int:
    by_day: dict[date, list[int]] = {}
    for row in rows:
        by_day.setdefault(row.day, []).append(_minute(row) if row.lead_days == 0 else 0)
    needed = 1
    for asked in by_day.values():
        asked.sort()
        for number, minute in enumerate(asked):
            left = len(starts) - bisect_left(starts, minute)
            if left:
                needed = max(needed, -(-(len(asked) - number) // left))
    return needed


def _minute(row: Row) -> int:
    """The minute of the day at which a walk-in can start at the earliest: a second past the minute is the next."""
    at = row.scheduled
    since = timedelta(hours=at.hour, minutes=at.minute, seconds=at.second, microseconds=at.microsecond)
    return -(-since // timedelta(minutes=1))


def _wall(minutes: int) -> time:
    return time(minutes // 60 % 24, minutes % 60)
