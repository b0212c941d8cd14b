"""Suspicious patterns in who looked at what and who came in when: rules that a privacy officer can read and repeat.

In: events of a period and of the weeks before it, which tell what is usual for each. Out: findings, each with its
numbers and a sentence. The same events give the same findings, whoever asks and when; nobody is judged by a score.
A finding is a reason to ask somebody, and no more (GDPR Article 22).
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from domain.access import Role
from domain.look import LISTS, RecordSeen
from domain.ports import Recorded

# So long before the period is looked at, to know what is usual.
BASELINE: Final = timedelta(days=28)
# A visit so near before or after a look gives a clinic's people a reason to look.
NEAR: Final = timedelta(days=30)
# Whoever did something for a patient so near to the look had a reason too: a telephone call, a letter.
AT_WORK: Final = timedelta(days=1)

# In an hour, below which nobody is remarkable: records opened one by one, and patients shown in lists.
MOST_OPENED: Final = 30
MOST_LISTED: Final = 300
TIMES_THE_USUAL: Final = 3
# On fewer other days than this nothing is usual yet: one great haul must not excuse the next.
USUAL_BY: Final = 5
HOUR: Final = timedelta(hours=1)

MOST_FAILURES: Final = 10
NIGHT: Final = frozenset({22, 23, 0, 1, 2, 3, 4, 5})
# So many sign-ins tell what hours somebody keeps; fewer do not excuse a night.
KNOWN_BY: Final = 10
RARELY: Final = 0.05

# By name, and by what they hold: these rules outlive a change of who writes them.
SESSION_STARTED: Final = "SessionStarted.v1"
SIGN_IN_FAILED: Final = "SignInFailed.v1"
ACCESS_REFUSED: Final = "AccessRefused.v1"
LOOKED: Final = frozenset({RecordSeen.NAME, SESSION_STARTED, SIGN_IN_FAILED, ACCESS_REFUSED})

_PATIENTS_NAMED: Final = 50
_ROUTES_NAMED: Final = 5


class Pattern(StrEnum):
    MANY_OPENED = "many_opened"
    """Many different patients' records opened within an hour, against what is usual for that person."""
    MANY_LISTED = "many_listed"
    """Many different patients shown in lists within an hour."""
    STRANGER = "stranger"
    """A record opened without a visit near in time and without anything done for the patient: a neighbour, perhaps."""
    BEHIND_GLASS = "behind_glass"
    """A record opened with no right to it but a broken glass. Each is looked into."""
    ODD_HOUR = "odd_hour"
    """A sign-in at night by somebody who rarely comes then."""
    MANY_FAILURES = "many_failures"
    """Many failed sign-ins to one account within an hour."""
    MANY_REFUSED = "many_refused"
    """Many requests of one person, or of one unknown, refused within an hour."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`who` is an actor, or an account where one was knocked at. `count` is what was counted, `usual` what is for them,
    `limit` what it went over. `positions` are events to start from, the first few."""

    pattern: Pattern
    who: str
    first: datetime
    last: datetime
    count: int
    usual: int
    limit: int
    patients: tuple[UUID, ...]
    positions: tuple[int, ...]
    because: str


@dataclass(frozen=True, slots=True)
class Ground:
    """Why somebody may have looked: instants of patients' visits, and of what actors did for patients."""

    visits: Mapping[UUID, Sequence[datetime]] = field(default_factory=dict)
    deeds: Mapping[tuple[str, UUID], Sequence[datetime]] = field(default_factory=dict)

    def for_look(self, actor: str, patient_id: UUID, at: datetime) -> bool:
        return any(abs(visit - at) <= NEAR for visit in self.visits.get(patient_id, ())) or any(
            abs(deed - at) <= AT_WORK for deed in self.deeds.get((actor, patient_id), ())
        )


@dataclass(frozen=True, slots=True)
class _Look:
    at: datetime
    position: int
    patient_id: UUID


def findings(
    events: Iterable[Recorded], ground: Ground, first: datetime, last: datetime, place: ZoneInfo
) -> list[Finding]:
    """What is suspicious between two instants, both included, by time. `events` are those that `LOOKED` names, from
    `BASELINE` before it on, in order; `place` says what night is."""
    told = list(events)
    found = [
        *_many(told, Pattern.MANY_OPENED, MOST_OPENED),
        *_many(told, Pattern.MANY_LISTED, MOST_LISTED),
        *_strangers(told, ground),
        *_odd_hours(told, place),
        *_failures(told),
        *_refusals(told),
    ]
    within = [one for one in found if one.last >= first and one.first <= last]
    return sorted(within, key=lambda one: (one.first, one.pattern, one.who))


def _staff_looks(events: Iterable[Recorded]) -> Iterator[tuple[Recorded, RecordSeen]]:
    """What patients and their proxies look at is their own affair."""
    for recorded in events:
        if isinstance(recorded.event, RecordSeen) and recorded.event.role is not Role.PATIENT:
            yield recorded, recorded.event


def _many(events: Sequence[Recorded], pattern: Pattern, floor: int) -> Iterator[Finding]:
    by_actor: dict[str, list[_Look]] = defaultdict(list)
    for recorded, look in _staff_looks(events):
        if (look.screen in LISTS) == (pattern is Pattern.MANY_LISTED):
            by_actor[recorded.actor].append(_Look(recorded.occurred_at, recorded.position, look.patient_id))
    for actor, looks in by_actor.items():
        busiest = _busiest_hours(looks)
        for episode in _episodes(looks, floor):
            day = episode[0].at.date()
            others = [count for other, count in busiest.items() if other != day]
            usual = round(statistics.median(others)) if len(others) >= USUAL_BY else 0
            limit = max(floor, TIMES_THE_USUAL * usual)
            count = max(_distinct_in_an_hour(episode))
            if count > limit:
                yield _finding(
                    pattern,
                    actor,
                    episode,
                    count,
                    usual,
                    limit,
                    f"{count} different patients within an hour, where {usual} is usual for them in a busy hour",
                )


def _distinct_in_an_hour(looks: Sequence[_Look]) -> Iterator[int]:
    """At each look, how many different patients the hour up to it holds."""
    window: deque[_Look] = deque()
    counts: Counter[UUID] = Counter()
    for look in looks:
        window.append(look)
        counts[look.patient_id] += 1
        while look.at - window[0].at > HOUR:
            gone = window.popleft().patient_id
            counts[gone] -= 1
            if not counts[gone]:
                del counts[gone]
        yield len(counts)


def _busiest_hours(looks: Sequence[_Look]) -> Mapping[date, int]:
    """By UTC day, the most patients of any hour that ends in it."""
    busiest: Counter[date] = Counter()
    for look, count in zip(looks, _distinct_in_an_hour(looks), strict=True):
        busiest[look.at.date()] = max(busiest[look.at.date()], count)
    return busiest


def _episodes(looks: Sequence[_Look], floor: int) -> Iterator[list[_Look]]:
    """Stretches of hours that hold more than the floor, joined where they touch."""
    episode: list[_Look] = []
    start = 0
    for place, (look, count) in enumerate(zip(looks, _distinct_in_an_hour(looks), strict=True)):
        if count <= floor:
            continue
        begin = max(start, next(n for n in range(start, place + 1) if look.at - looks[n].at <= HOUR))
        if episode and looks[begin].at - episode[-1].at > HOUR:
            yield episode
            episode = []
        episode += looks[begin : place + 1]
        start = place + 1
    if episode:
        yield episode


def _strangers(events: Sequence[Recorded], ground: Ground) -> Iterator[Finding]:
    """One finding for each actor, patient and day."""
    groups: dict[tuple[Pattern, str, UUID, date], list[_Look]] = defaultdict(list)
    for recorded, look in _staff_looks(events):
        # A system serves whoever asks it, and an auditor looks at what was looked at; a list shows who has visits.
        if look.screen in LISTS or look.role in (Role.SYSTEM, Role.AUDITOR):
            continue
        at = recorded.occurred_at
        if look.behind_glass:
            pattern = Pattern.BEHIND_GLASS
        elif ground.for_look(recorded.actor, look.patient_id, at):
            continue
        else:
            pattern = Pattern.STRANGER
        key = (pattern, recorded.actor, look.patient_id, at.date())
        groups[key].append(_Look(at, recorded.position, look.patient_id))
    for (pattern, actor, _, _), looks in groups.items():
        because = (
            "behind a broken glass"
            if pattern is Pattern.BEHIND_GLASS
            else f"no visit of the patient within {NEAR.days} days, and nothing done for them within a day"
        )
        yield _finding(pattern, actor, looks, len(looks), 0, 0, because)


def _odd_hours(events: Sequence[Recorded], place: ZoneInfo) -> Iterator[Finding]:
    by_account: dict[str, list[Recorded]] = defaultdict(list)
    for recorded in events:
        if recorded.event.NAME == SESSION_STARTED:
            by_account[_account(recorded)].append(recorded)
    for account, starts in by_account.items():
        hours = Counter(one.occurred_at.astimezone(place).hour for one in starts)
        for one in starts:
            hour = one.occurred_at.astimezone(place).hour
            near = sum(hours[(hour + step) % 24] for step in (-1, 0, 1))
            known = len(starts) >= KNOWN_BY
            if hour in NIGHT and not (known and near / len(starts) > RARELY):
                usual = f"{near} of {len(starts)} sign-ins are about then" if known else "few sign-ins are known"
                because = f"a sign-in in the hour of {hour:02d}:00 ({place.key}); {usual}"
                look = _Look(one.occurred_at, one.position, UUID(int=0))
                yield _finding(Pattern.ODD_HOUR, account, [look], 1, near - 1, 0, because, patients=())


def _failures(events: Sequence[Recorded]) -> Iterator[Finding]:
    by_account: dict[str, list[_Look]] = defaultdict(list)
    starts: dict[str, list[datetime]] = defaultdict(list)
    for recorded in events:
        if recorded.event.NAME == SIGN_IN_FAILED:
            # Each counts for itself.
            by_account[_account(recorded)].append(
                _Look(recorded.occurred_at, recorded.position, UUID(int=recorded.position))
            )
        elif recorded.event.NAME == SESSION_STARTED:
            starts[_account(recorded)].append(recorded.occurred_at)
    for account, tries in by_account.items():
        for episode in _episodes(tries, MOST_FAILURES - 1):
            count = max(_distinct_in_an_hour(episode))
            after = any(timedelta(0) <= start - episode[-1].at <= HOUR for start in starts[account])
            because = f"{count} failed sign-ins within an hour" + (", and then one that succeeded" if after else "")
            yield _finding(Pattern.MANY_FAILURES, account, episode, count, 0, MOST_FAILURES - 1, because, patients=())


def _refusals(events: Sequence[Recorded]) -> Iterator[Finding]:
    by_actor: dict[str, list[Recorded]] = defaultdict(list)
    for recorded in events:
        if recorded.event.NAME == ACCESS_REFUSED:
            by_actor[recorded.actor].append(recorded)
    for actor, refused in by_actor.items():
        for hour, some in _by_hour(refused).items():
            count = sum(int(_told(one, "times") or 1) for one in some)
            if count > MOST_OPENED:
                what = _what_was_refused(some)
                looks = [_Look(one.occurred_at, one.position, UUID(int=0)) for one in some]
                because = f"{count} requests refused in the hour from {hour:%H:%M} UTC on: {what}"
                yield _finding(Pattern.MANY_REFUSED, actor, looks, count, 0, MOST_OPENED, because, patients=())


def _what_was_refused(refused: Iterable[Recorded]) -> str:
    """With which codes, and at which routes where they were told apart."""
    routes: dict[str, set[str]] = defaultdict(set)
    for one in refused:
        routes[str(_told(one, "code"))].add(str(_told(one, "operation") or ""))
    told = []
    for code, names in sorted(routes.items()):
        named = sorted(names - {""})
        more = ["others"] if len(named) > _ROUTES_NAMED or "" in names else []
        told.append(f"{code} at {', '.join(named[:_ROUTES_NAMED] + more)}" if named else code)
    return "; ".join(told)


def _by_hour(events: Iterable[Recorded]) -> Mapping[datetime, list[Recorded]]:
    hours: dict[datetime, list[Recorded]] = defaultdict(list)
    for recorded in events:
        hours[recorded.occurred_at.replace(minute=0, second=0, microsecond=0)].append(recorded)
    return hours


def _account(recorded: Recorded) -> str:
    return str(_told(recorded, "account_id") or recorded.actor)


def _told(recorded: Recorded, name: str) -> Any:
    return getattr(recorded.event, name, None)


def _finding(
    pattern: Pattern,
    who: str,
    looks: Sequence[_Look],
    count: int,
    usual: int,
    limit: int,
    because: str,
    *,
    patients: tuple[UUID, ...] | None = None,
) -> Finding:
    named = tuple(dict.fromkeys(look.patient_id for look in looks))[:_PATIENTS_NAMED]
    return Finding(
        pattern=pattern,
        who=who,
        first=looks[0].at,
        last=looks[-1].at,
        count=count,
        usual=usual,
        limit=limit,
        patients=named if patients is None else patients,
        positions=tuple(look.position for look in looks[:_PATIENTS_NAMED]),
        because=because,
    )
