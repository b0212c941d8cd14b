"""When a record need not be kept any more, forget the person.

In: an organization's patients and accounts, by the log, and the months of which strangers are known. Out: who is due
since when, and an erasure of each by the ordinary command, which decides anew. Somebody who never came is kept as long,
from the day on which they were registered. Whoever registered by themselves and never showed that the address is theirs
is no patient, and is kept for some days.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final
from uuid import UUID

from commands.accounts import ForgetUnverified
from commands.erasure import ErasePerson, ForgetStrangers, last_visit, made_on
from commands.loop import Desk
from domain import account, patient, retention
from domain.access import Actor, Role
from domain.account import Account
from domain.denial import STRANGERS
from domain.patient import ErasureGround, Patient
from domain.refusals import Refusal
from domain.retention import RetentionPolicy

KEEPER = Actor("retention", Role.SYSTEM)

_BITE: Final = 200
_FIRST, _LAST = patient.stream(UUID(int=0)), patient.stream(UUID(int=2**128 - 1))


@dataclass(frozen=True, slots=True)
class Due:
    """A record that need not be kept since `since`, by the policy and the last visit, or the day of registration where
    there was none. `held` says that a legal hold keeps it all the same."""

    patient_id: UUID
    registered: date
    last_visit: date | None
    since: date
    held: bool


async def due(
    desk: Desk, organization: str, progress: Callable[[int, int], None] = lambda done, total: None
) -> AsyncIterator[Due]:
    """Everybody whose record is due today, in the order in which they were registered. `progress` hears how many of how
    many patients were looked at. Raises `LogUnavailable`."""
    policy = await _policy(desk, organization)
    names = await desk.log.streams(organization, _FIRST, _LAST)
    now = desk.clock.now()
    for start in range(0, len(names), _BITE):
        bite = names[start : start + _BITE]
        for told in (await desk.log.load(organization, dict.fromkeys(bite, 0))).values():
            state: Patient | None = None
            for recorded in told:
                state = patient.evolve(state, recorded.event)
            if state is None or state.erased:
                continue
            registered = told[0].occurred_at.date()
            # Cheaper than to look for a visit, and enough for most: nobody is due before they could be.
            if retention.kept_until(policy, registered) > now.date():
                continue
            visited = await last_visit(desk, organization, state.id, now)
            since = retention.kept_until(policy, max(registered, visited or registered))
            if since <= now.date():
                yield Due(state.id, registered, visited, since, bool(state.holds))
        progress(min(start + _BITE, len(names)), len(names))


async def erase(desk: Desk, organization: str, one: Due) -> bool:
    """Forget who is due; whether that was decided. Raises `LogUnavailable`, `Busy`."""
    command = ErasePerson(patient_id=one.patient_id, ground=ErasureGround.NO_LONGER_NECESSARY)
    try:
        answer = await desk.handle(command, KEEPER, organization)
    except Refusal:
        # Somebody else was faster.
        return False
    return bool(answer.content["outcome"] == "erased")


async def strangers_due(desk: Desk, organization: str, persons: Iterable[str]) -> Sequence[tuple[str, date]]:
    """The months whose strangers need not be known any more, each with since when, oldest first. `persons` are those
    who have a key. Raises `LogUnavailable`."""
    policy, today = await _policy(desk, organization), desk.clock.now().date()
    months = sorted(person.removeprefix(STRANGERS) for person in persons if person.startswith(STRANGERS))
    since = {month: retention.strangers_kept_until(policy, month) for month in months}
    return [(month, day) for month, day in since.items() if day <= today]


async def forget_strangers(desk: Desk, organization: str, month: str) -> bool:
    """Forget where the strangers of a month were; whether that was decided. Raises `LogUnavailable`, `Busy`."""
    answer = await desk.handle(ForgetStrangers(month=month), KEEPER, organization)
    return bool(answer.content["outcome"] == "forgotten")


async def unverified_due(desk: Desk, organization: str) -> AsyncIterator[tuple[UUID, date]]:
    """The accounts whose owner registered and never showed that the address is theirs, in that order, each with since
    when they need not be kept any more. Raises `LogUnavailable`."""
    policy, now = await _policy(desk, organization), desk.clock.now()
    names = await desk.log.streams(organization, *account.streams())
    for start in range(0, len(names), _BITE):
        for told in (await desk.log.load(organization, dict.fromkeys(names[start : start + _BITE], 0))).values():
            state: Account | None = None
            for recorded in told:
                state = account.evolve(state, recorded.event)
            if state is None:
                continue
            since = retention.unverified_kept_until(policy, made_on(state.id))
            if account.lapse(state, since, now) is not None:
                yield state.id, since


async def forget_unverified(desk: Desk, organization: str, account_id: UUID) -> bool:
    """Forget who never showed that an address is theirs; whether that was decided. Raises `LogUnavailable`, `Busy`."""
    answer = await desk.handle(ForgetUnverified(account_id=account_id), KEEPER, organization)
    return bool(answer.content["outcome"] == "forgotten")


async def _policy(desk: Desk, organization: str) -> RetentionPolicy:
    known: RetentionPolicy | None = (await desk.states(organization, [retention.STREAM]))[retention.STREAM][1]
    return known or retention.AS_SHIPPED
