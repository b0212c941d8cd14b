"""What is held of a person's accounts, as their export tells it: where they signed in, with what, and from where.

In: the log, and the accounts that acted as the person. Out: sessions, passkeys, outside providers and origins. Secrets
are no part of it, nor is where others tried to get in from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice
from typing import Final
from uuid import UUID

from pydantic import BaseModel

from domain import account, client, origin, session
from domain.account import (
    Account,
    AccountRegistered,
    AddressTakenAgain,
    LinkIssued,
    PasskeyAdded,
    ProviderLinked,
)
from domain.client import Client
from domain.events import Erased
from domain.holder import HolderNamed
from domain.origin import OriginSeen
from domain.ports import EventLog, Recorded
from domain.session import SessionEnded, SessionStarted

# Whoever knows an address can bring these about, so where they come from may be somebody else's: the letter went to
# its owner, who may have followed a link that they did not ask for.
_ANYBODYS: Final = (AccountRegistered, AddressTakenAgain, LinkIssued)
_BITE: Final = 500


class ExportedPasskey(BaseModel):
    name: str | None
    added: datetime
    in_use: bool


class ExportedProvider(BaseModel):
    """An outside provider by whose word the account may be entered, and whom it knows the person as."""

    issuer: str | None
    subject: str | None
    linked: datetime
    in_use: bool


class ExportedSession(BaseModel):
    """`app` is null where it was a sign-in in a browser."""

    since: datetime
    ended: datetime | None
    app: str | None
    address: str | None
    programme: str | None


class ExportedAccount(BaseModel):
    account_id: UUID
    email: str | None
    role: str
    status: str
    passkeys: list[ExportedPasskey]
    providers: list[ExportedProvider]
    sessions: list[ExportedSession]


class ExportedOrigin(BaseModel):
    """An address and a programme that the person came from; `first` is when they first did."""

    first: datetime
    address: str | None
    programme: str | None


async def accounts_of(
    log: EventLog, organization: str, patient_id: UUID, told: Sequence[Recorded], position: int
) -> tuple[list[ExportedAccount], set[UUID]]:
    """The accounts that `told`, the stream of the person's holders, names, and the causes of what was done to them and
    in their sessions. Raises `LogUnavailable`."""
    named = dict.fromkeys(one.event.account_id for one in told if isinstance(one.event, HolderNamed))
    loaded = await log.load(organization, {account.stream(key): 0 for key in named}, upto=position)
    found, causes = [], set[UUID]()
    for events in loaded.values():
        state: Account | None = None
        for one in events:
            state = account.evolve(state, one.event)
        # One that has become somebody else's is no longer theirs to see.
        if state is None or state.person != patient_id:
            continue
        causes |= {
            one.causation_id for one in events if one.causation_id is not None and not isinstance(one.event, _ANYBODYS)
        }
        names = await log.streams(organization, *session.streams_of(state.id))
        sessions, more = await _sessions(log, organization, names, position)
        causes |= more
        found.append(
            ExportedAccount(
                account_id=state.id,
                email=_readable(state.email),
                role=state.role.value,
                status=state.status.value,
                passkeys=[
                    ExportedPasskey(
                        name=_readable(one.event.name),
                        added=one.occurred_at,
                        in_use=one.event.passkey_id in state.passkeys,
                    )
                    for one in events
                    if isinstance(one.event, PasskeyAdded)
                ],
                providers=[
                    ExportedProvider(
                        issuer=_readable(one.event.issuer),
                        subject=_readable(one.event.subject),
                        linked=one.occurred_at,
                        in_use=one.event.identity in state.linked,
                    )
                    for one in events
                    if isinstance(one.event, ProviderLinked)
                ],
                sessions=sessions,
            )
        )
    return found, causes


async def origins_of(
    log: EventLog, organization: str, whose: Iterable[UUID], causes: Iterable[UUID], position: int
) -> list[ExportedOrigin]:
    """Those among the causes that are sealed as one of `whose`: the person's accounts, or the person. By time. Raises
    `LogUnavailable`."""
    persons, left = {str(one) for one in whose}, iter(sorted(causes))
    found = []
    while some := list(islice(left, _BITE)):
        loaded = await log.load(organization, {origin.stream(one): 0 for one in some}, upto=position)
        found += [
            ExportedOrigin(
                first=one.occurred_at,
                address=_readable(one.event.address) or None,
                programme=_readable(one.event.agent),
            )
            for rows in loaded.values()
            for one in rows
            if isinstance(one.event, OriginSeen) and one.event.person in persons
        ]
    return sorted(found, key=lambda one: one.first)


async def _sessions(
    log: EventLog, organization: str, names: Sequence[str], position: int
) -> tuple[list[ExportedSession], set[UUID]]:
    found, causes, apps = [], set[UUID](), dict[UUID, str]()
    for start in range(0, len(names), _BITE):
        bite = dict.fromkeys(names[start : start + _BITE], 0)
        for rows in (await log.load(organization, bite, upto=position)).values():
            causes |= {one.causation_id for one in rows if one.causation_id is not None}
            began = next((one.event for one in rows if isinstance(one.event, SessionStarted)), None)
            if began is None:
                continue
            if began.client_id is not None and began.client_id not in apps:
                apps[began.client_id] = await _app(log, organization, began.client_id, position)
            found.append(
                ExportedSession(
                    since=rows[0].occurred_at,
                    ended=next((one.occurred_at for one in rows if isinstance(one.event, SessionEnded)), None),
                    app=None if began.client_id is None else apps[began.client_id],
                    address=_readable(began.address) or None,
                    programme=_readable(began.user_agent) or None,
                )
            )
    return sorted(found, key=lambda one: one.since), causes


async def _app(log: EventLog, organization: str, client_id: UUID, position: int) -> str:
    stream = client.stream(client_id)
    state: Client | None = None
    for one in (await log.load(organization, {stream: 0}, upto=position))[stream]:
        state = client.evolve(state, one.event)
    return str(client_id) if state is None else state.details.name


def _readable(words: str | Erased | None) -> str | None:
    return None if isinstance(words, Erased) else words
