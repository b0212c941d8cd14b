"""What has ended: sessions, accounts, clients, and sign-ins by one factor where a role has come to need two.

In: the log, followed by position. Out: whether a token still holds, from memory, so that a check costs a look into a
dictionary.

Only what ended within the life of a token is remembered: older tokens have run out by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import reduce
from typing import Any, Final, NamedTuple, Self

from commands.loop import fold_of
from domain import mfa_policy
from domain.account import (
    AccountClosed,
    AccountLockedByAdministrator,
    PasswordChanged,
    RoleChanged,
    SecondFactorsReset,
)
from domain.client import ClientRemoved, ClientSecretRotated
from domain.mfa_policy import MfaPolicy, MfaPolicySet
from domain.ports import Clock, LogUnavailable
from domain.session import SessionEnded
from infra.event_log.log import Mark, PostgresEventLog
from infra.http.tokens import Caller
from streams.while_open import WhileOpen

# The kinds of events after which tokens made before are refused, by what they stand for.
ENDINGS: Final = tuple(
    kind.NAME
    for kind in (
        SessionEnded,
        AccountClosed,
        AccountLockedByAdministrator,
        PasswordChanged,
        RoleChanged,
        SecondFactorsReset,
        ClientRemoved,
        ClientSecretRotated,
        MfaPolicySet,
    )
)
# Longer than any token that names a session, with what clocks may differ by.
TOKEN_LIFE: Final = timedelta(minutes=15)
# While the log is busy it is asked at most this often, which is how late an ending may be known.
_PAUSE: Final = 0.1
_LOOK_AGAIN: Final = 10.0
_LATE: Final = 60.0
_BITE: Final = 1000

_log = logging.getLogger("daybook.revocations")


class Ended(NamedTuple):
    """When, in seconds since the epoch, and which era of an account or a client began with it; None where the log
    can't tell, and for sessions, which are over."""

    at: float
    era: int | None = None

    def spares(self, made: float, era: int | None) -> bool:
        """Whether a token that was made then, in that era, came after it. By the era where both say theirs: two clocks
        differ, and what overtakes a token while it is made has a time before it."""
        return made > self.at if era is None or self.era is None else era >= self.era


class Behind(Exception):
    """The log could not be followed for a while, so what ended since is not known here."""


class Revocations(WhileOpen):
    """`async with Revocations(log, clock) as revocations`; then `ended` knows what ended before. Raises
    `LogUnavailable` when the log is out of reach at the start."""

    title = "revocations"

    def __init__(self, log: PostgresEventLog, clock: Clock, *, life: timedelta = TOKEN_LIFE) -> None:
        self._log = log
        self._clock = clock
        self._life = life
        # How far the log is known.
        self.position = 0
        self._seen_at = time.monotonic()
        # What ended, by organization and id, in the order of the log.
        self._ended: OrderedDict[tuple[str, str], Ended] = OrderedDict()
        # What second factors are needed, by organization, where that has changed within the life of a token.
        self._policies: dict[str, MfaPolicy] = {}

    async def __aenter__(self) -> Self:
        self.position = await self._log.position_at(self._clock.now() - self._life)
        await self._catch_up()
        return await super().__aenter__()

    def ended(self, caller: Caller, made: float) -> bool:
        """Whether what a token rests on has ended since it was made, in seconds since the epoch."""
        return not holds(self._ended, self._policies, caller, made)

    async def check(self) -> str:
        """For health. Raises `Behind`."""
        if time.monotonic() - self._seen_at > _LATE:
            raise Behind
        return "known"

    async def _run(self) -> None:
        while True:
            try:
                await self._log.wait(self.position, _LOOK_AGAIN)
                await self._catch_up()
            except LogUnavailable:
                _log.warning("what has ended can't be followed: the log is out of reach")
            self._forget()
            await asyncio.sleep(_PAUSE)

    async def _catch_up(self) -> None:
        while True:
            head = await self._log.head()
            marks = await self._log.marks(self.position, head, ENDINGS, _BITE) if head > self.position else ()
            states = await self._states(marks)
            for mark in marks:
                self._note(mark, states.get(mark.stream))
            self.position = marks[-1].position if len(marks) == _BITE else max(head, self.position)
            if len(marks) < _BITE:
                break
        self._seen_at = time.monotonic()

    def _note(self, mark: Mark, state: Any) -> None:
        if isinstance(state, MfaPolicy):
            self._policies[mark.organization] = state
            return
        key = (mark.organization, mark.stream.rpartition("/")[2])
        self._ended[key] = Ended(mark.recorded_at.timestamp(), getattr(state, "era", None))
        self._ended.move_to_end(key)

    async def _states(self, marks: Iterable[Mark]) -> Mapping[str, Any]:
        """What accounts, clients and policies have become, by the full names of their streams. Raises
        `LogUnavailable`."""
        wanted = {mark.stream: mark.organization for mark in marks if mark.name != SessionEnded.NAME}
        states: dict[str, Any] = {}
        for full, organization in wanted.items():
            stream = full.removeprefix(f"{organization}/")
            try:
                rows = (await self._log.load(organization, {stream: 0}))[stream]
            except LogUnavailable:
                raise
            except Exception as error:  # an event that only newer processes read, say: then its time is what is known
                _log.warning("an ending can't be read, and counts by its time: %s", type(error).__name__)
                continue
            states[full] = reduce(fold_of(stream), (row.event for row in rows), None)
        return states

    def _forget(self) -> None:
        until = (self._clock.now() - self._life).timestamp()
        while self._ended and next(iter(self._ended.values())).at < until:
            self._ended.popitem(last=False)


def holds(
    ended: Mapping[tuple[str, str], Ended], policies: Mapping[str, MfaPolicy], caller: Caller, made: float
) -> bool:
    """Whether a token that was made then holds, where `ended` says what ended, by organization and id, and `policies`
    who needs a second factor now."""
    actor, organization = caller.actor, caller.organization
    if actor.client_id is None:
        # An operator's: nothing in the log stands behind it.
        return True
    if actor.session_id is not None and (organization, str(actor.session_id)) in ended:
        return False
    account = ended.get((organization, str(actor.account_id))) if actor.account_id is not None else None
    if account is not None and not account.spares(made, caller.era):
        return False
    policy = policies.get(organization)
    personal = policy is not None and actor.account_id is not None
    if personal and not mfa_policy.lets_in(policy, actor.role, actor.factors):
        return False
    client = ended.get((organization, actor.client_id))
    return client is None or client.spares(made, caller.client_era)
