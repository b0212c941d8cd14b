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
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final, Self

from commands.loop import MFA_POLICY
from domain import mfa_policy
from domain.account import (
    AccountClosed,
    AccountLockedByAdministrator,
    PasswordChanged,
    RoleChanged,
    SecondFactorsReset,
)
from domain.client import ClientRemoved, ClientSecretRotated
from domain.mfa_policy import THE_POLICY, MfaPolicy, MfaPolicySet
from domain.ports import Clock, LogUnavailable
from domain.session import SessionEnded
from infra.event_log.log import Mark, PostgresEventLog
from infra.http.tokens import Caller

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


class Behind(Exception):
    """The log could not be followed for a while, so what ended since is not known here."""


class Revocations:
    """`async with Revocations(log, clock) as revocations`; then `ended` knows what ended before. Raises
    `LogUnavailable` when the log is out of reach at the start."""

    def __init__(self, log: PostgresEventLog, clock: Clock, *, life: timedelta = TOKEN_LIFE) -> None:
        self._log = log
        self._clock = clock
        self._life = life
        # How far the log is known.
        self.position = 0
        self._seen_at = time.monotonic()
        # What ended, and when (seconds since the epoch), in the order of the log.
        self._ended: OrderedDict[tuple[str, str], float] = OrderedDict()
        # What second factors are needed, by organization, where that has changed within the life of a token.
        self._policies: dict[str, MfaPolicy] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.position = await self._log.position_at(self._clock.now() - self._life)
        await self._catch_up()
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def ended(self, caller: Caller, made: float) -> bool:
        """Whether what a token rests on has ended since it was made, in seconds since the epoch."""
        return not holds(self._ended, self._policies, caller, made)

    async def check(self) -> str:
        """For health. Raises `Behind`."""
        if time.monotonic() - self._seen_at > _LATE:
            raise Behind
        return "known"

    async def _follow(self) -> None:
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
            for mark in marks:
                await self._note(mark)
            self.position = marks[-1].position if len(marks) == _BITE else max(head, self.position)
            if len(marks) < _BITE:
                break
        self._seen_at = time.monotonic()

    async def _note(self, mark: Mark) -> None:
        if mark.name == MfaPolicySet.NAME:
            self._policies[mark.organization] = await self._policy(mark.organization)
            return
        key = (mark.organization, mark.stream.rpartition("/")[2])
        self._ended[key] = mark.recorded_at.timestamp()
        self._ended.move_to_end(key)

    async def _policy(self, organization: str) -> MfaPolicy:
        stream = MFA_POLICY.stream(THE_POLICY)
        state: MfaPolicy | None = None
        for row in (await self._log.load(organization, {stream: 0}))[stream]:
            state = MFA_POLICY.evolve(state, row.event)
        return state or MfaPolicy()

    def _forget(self) -> None:
        until = (self._clock.now() - self._life).timestamp()
        while self._ended and next(iter(self._ended.values())) < until:
            self._ended.popitem(last=False)


def holds(
    ended: Mapping[tuple[str, str], float], policies: Mapping[str, MfaPolicy], caller: Caller, made: float
) -> bool:
    """Whether a token that was made then holds, where `ended` says what ended when, by organization and id, and
    `policies` who needs a second factor now."""
    actor, organization = caller.actor, caller.organization
    if actor.client_id is None:
        # An operator's: nothing in the log stands behind it.
        return True
    if actor.session_id is not None and (organization, str(actor.session_id)) in ended:
        return False
    if actor.account_id is not None and made <= ended.get((organization, str(actor.account_id)), 0.0):
        return False
    policy = policies.get(organization)
    personal = policy is not None and actor.account_id is not None
    if personal and not mfa_policy.lets_in(policy, actor.role, actor.factors):
        return False
    return made > ended.get((organization, actor.client_id), 0.0)
