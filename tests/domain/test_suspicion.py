"""What is suspicious, and what is a day's work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from domain.access import Role
from domain.account import Factor, FailureReason, SignInFailed
from domain.denial import AccessRefused
from domain.events import Event
from domain.look import RecordSeen, Screen
from domain.ports import Recorded
from domain.session import SessionStarted
from domain.suspicion import MOST_LISTED, MOST_OPENED, Finding, Ground, Pattern, findings
from tests.domain.clinic import uid

DAY = datetime(2026, 3, 2, tzinfo=UTC)
MONTH_LATER = DAY + timedelta(days=30)
BERLIN = ZoneInfo("Europe/Berlin")
EVERYBODY = Ground(visits={uid(n): [DAY] for n in range(2000)})


def at(day: int, hour: float) -> datetime:
    return DAY + timedelta(days=day, hours=hour)


class Story:
    """Events as the log would have them, in order."""

    def __init__(self) -> None:
        self._told: list[tuple[datetime, str, Event]] = []

    def looks(
        self,
        actor: str,
        day: int,
        hour: float,
        patients: Sequence[int],
        *,
        apart: float = 30.0,
        role: Role = Role.FRONT_DESK,
        screen: Screen = Screen.APPOINTMENT,
        behind_glass: bool = False,
    ) -> Story:
        """One after the other, `apart` seconds."""
        for number, patient in enumerate(patients):
            look = RecordSeen(patient_id=uid(patient), screen=screen, role=role, behind_glass=behind_glass)
            self._told.append((at(day, hour) + timedelta(seconds=apart * number), actor, look))
        return self

    def refused(self, actor: str, day: int, hour: float, code: str, operation: str, times: int) -> Story:
        when = at(day, hour)
        event = AccessRefused(
            whose=actor, code=code, operation=operation, times=times, first_at=when, last_at=when, address=None
        )
        self._told.append((when, actor, event))
        return self

    def signs_in(self, account: int, *when: datetime) -> Story:
        for one in when:
            event = SessionStarted(
                account_id=uid(account),
                session_id=uid(900),
                era=1,
                factors=("pwd",),
                authenticated_at=one,
                idle_until=one,
                until=one,
            )
            self._told.append((one, str(uid(account)), event))
        return self

    def fails(self, account: int, first: datetime, times: int, *, apart: float = 60.0) -> Story:
        event = SignInFailed(
            account_id=uid(account), factor=Factor.PASSWORD, reason=next(iter(FailureReason)), locked_until=None
        )
        for number in range(times):
            self._told.append((first + timedelta(seconds=apart * number), "sign-in", event))
        return self

    def found(
        self, ground: Ground = EVERYBODY, first: datetime = DAY, last: datetime = MONTH_LATER, place: Any = BERLIN
    ) -> list[Finding]:
        return findings(self._recorded(), ground, first, last, place)

    def _recorded(self) -> Iterator[Recorded]:
        for position, (when, actor, event) in zip(count(1), sorted(self._told, key=lambda one: one[0]), strict=False):
            yield Recorded(position, "a", "x/1", 1, uid(1), event, when, when, actor, uid(1), uid(1))


def patterns(found: Sequence[Finding]) -> list[tuple[Pattern, str]]:
    return [(one.pattern, one.who) for one in found]


def test_many_records_within_an_hour_are_told_with_what_is_usual() -> None:
    story = Story()
    for day in range(5):
        story.looks("clerk", day, 9, range(5 + day % 2))
    story.looks("clerk", 6, 9, range(100, 150))
    (found,) = story.found()
    assert (found.pattern, found.who, found.count, found.usual, found.limit) == (
        Pattern.MANY_OPENED,
        "clerk",
        50,
        5,
        MOST_OPENED,
    )
    assert (found.first, found.last) == (at(6, 9), at(6, 9) + timedelta(seconds=30 * 49))
    assert len(found.patients) == 50
    assert "50 different patients" in found.because


def test_who_always_opens_many_is_held_against_their_own_usual() -> None:
    story = Story()
    for day in range(5):
        story.looks("recall", day, 9, range(60))
    assert story.looks("recall", 6, 9, range(100, 250), apart=20).found() == []
    (found,) = story.looks("recall", 8, 9, range(300, 600), apart=10).found()
    assert (found.count, found.usual, found.limit) == (300, 60, 180)


def test_the_same_patient_again_is_one_patient_and_slow_work_is_no_rush() -> None:
    story = Story().looks("clerk", 0, 9, [1] * 500, apart=1)
    story.looks("other", 0, 9, range(200), apart=150)
    assert story.found() == []


def test_lists_show_many_without_suspicion_until_they_are_very_many() -> None:
    story = Story().looks("clerk", 0, 9, range(MOST_LISTED), apart=1, screen=Screen.PROVIDER_DAY)
    assert story.found() == []
    story.looks("clerk", 0, 9.2, [MOST_LISTED], screen=Screen.PROVIDER_WEEK)
    assert patterns(story.found()) == [(Pattern.MANY_LISTED, "clerk")]


def test_patients_and_their_proxies_are_nobodys_affair() -> None:
    assert Story().looks("anna", 0, 9, range(100), role=Role.PATIENT).found(Ground()) == []


def test_a_record_opened_without_a_reason_that_the_book_knows() -> None:
    ground = Ground(visits={uid(1): [at(29, 12)], uid(2): [at(60, 9)]}, deeds={("clerk", uid(3)): [at(0, 20)]})
    story = Story().looks("clerk", 0, 9, [1, 2, 2, 3])
    (found,) = story.found(ground)
    assert (found.pattern, found.patients, found.count) == (Pattern.STRANGER, (uid(2),), 2)
    # What another did for the patient is no reason of one's own.
    assert patterns(Story().looks("other", 0, 9, [3]).found(ground)) == [(Pattern.STRANGER, "other")]
    for role in (Role.SYSTEM, Role.AUDITOR):
        assert Story().looks("it", 0, 9, [2], role=role).found(ground) == []


def test_every_look_behind_a_broken_glass_is_looked_into() -> None:
    story = Story().looks("doctor", 0, 9, [1, 1], role=Role.PROVIDER, behind_glass=True)
    (found,) = story.found()
    assert (found.pattern, found.patients, found.count) == (Pattern.BEHIND_GLASS, (uid(1),), 2)


def test_a_sign_in_at_night_by_somebody_who_comes_by_day() -> None:
    by_day = [at(day, 8) for day in range(20)]
    story = Story().signs_in(1, *by_day, at(20, 2))
    (found,) = story.found()
    assert (found.pattern, found.who, found.first) == (Pattern.ODD_HOUR, str(uid(1)), at(20, 2))
    # The night shift.
    assert Story().signs_in(2, *(at(day, 23) for day in range(20))).found() == []
    # Night is where the clinic is: ten in the evening in Berlin is the afternoon in New York.
    assert Story().signs_in(1, *by_day, at(20, 21)).found(place=ZoneInfo("America/New_York")) == []


def test_knocking_at_an_account() -> None:
    assert Story().fails(1, at(0, 9), 9).found() == []
    (found,) = Story().fails(1, at(0, 9), 12).found()
    assert (found.pattern, found.who, found.count) == (Pattern.MANY_FAILURES, str(uid(1)), 12)
    assert "succeeded" not in found.because
    (found,) = Story().fails(1, at(0, 9), 12).signs_in(1, at(0, 9.5)).found()
    assert "succeeded" in found.because
    assert Story().fails(1, at(0, 9), 20, apart=600).found() == []


def test_many_refused_requests_say_with_which_codes_and_at_which_routes() -> None:
    story = Story().refused("clerk", 0, 9, "not_allowed", "read_looks", 20)
    assert story.found() == []
    story.refused("clerk", 0, 9.5, "not_allowed", "", 30).refused("clerk", 0, 9.6, "token_expired", "", 5)
    (found,) = story.found()
    assert (found.pattern, found.who, found.count) == (Pattern.MANY_REFUSED, "clerk", 55)
    assert found.because == (
        "55 requests refused in the hour from 09:00 UTC on: not_allowed at read_looks, others; token_expired"
    )


def test_what_lies_outside_the_period_tells_what_is_usual_and_is_no_finding() -> None:
    story = Story().looks("clerk", 0, 9, range(50)).looks("clerk", 10, 9, range(100, 150))
    assert len(story.found()) == 2
    assert [one.first for one in story.found(first=at(9, 0), last=at(11, 0))] == [at(10, 9)]


seconds = st.lists(st.tuples(st.integers(0, 3 * 3600), st.integers(0, 60)), max_size=150)


@given(seconds)
def test_a_finding_of_many_is_true_of_some_hour_and_none_is_missed(looks: list[tuple[int, int]]) -> None:
    story = Story()
    for second, patient in looks:
        story.looks("clerk", 0, second / 3600, [patient])
    found = [one for one in story.found() if one.pattern is Pattern.MANY_OPENED]
    times = sorted((at(0, second / 3600), patient) for second, patient in looks)
    hours = [
        len({patient for when, patient in times if timedelta(0) <= when - start <= timedelta(hours=1)})
        for start, _ in times
    ]
    for one in found:
        assert MOST_OPENED <= one.limit < one.count <= max(hours)
    # In so few days nothing is usual yet.
    assert bool(found) == any(hour > MOST_OPENED for hour in hours)


@given(st.permutations(range(40)))
def test_the_same_looks_give_the_same_findings(order: list[int]) -> None:
    story = Story().looks("clerk", 0, 9, range(40)).looks("other", 1, 9, order)
    told = story.found()
    assert told == story.found()
    assert {(one.who, one.count) for one in told} == {("clerk", 40), ("other", 40)}


def test_nothing_is_found_in_nothing() -> None:
    assert findings([], Ground(), at(0, 0), at(1, 0), BERLIN) == []
