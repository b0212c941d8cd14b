"""From where each request comes, written into the log once for each origin. In: a request and who asks. Out: the id of
its origin, which stands as the cause beside all that comes of it.

The id is a keyed hash of what makes the origin, so every process gives one origin one id, no table is asked, and nobody
without the key can try out addresses.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import OrderedDict
from contextlib import suppress
from typing import Final
from uuid import UUID

from starlette.types import Scope

from domain.access import Actor
from domain.denial import strangers
from domain.origin import OriginSeen, stream
from domain.ports import Clock, Context, EventLog, Ids, NewEvent, Save, VersionConflict
from infra.http.address import client_address, subscriber
from infra.http.limits import MemoryBuckets, Policy
from infra.http.tokens import CALLER

_REMEMBERED: Final = 20_000
_LONGEST_AGENT: Final = 256

# Strangers invent programmes, and some have many addresses: the log is not theirs to fill. Beyond the first bound an
# address is written without its programme, beyond the second neither is.
_OF_ONE: Final = Policy(20, 3600)
_OF_ALL: Final = Policy(600, 3600)

_Key = tuple[str, str, str, UUID | None, str | None, str, str]


class Origins:
    """`secret` is the installation's; every process that answers must have the same. The most recent origins are
    remembered, so that a request from a known one costs a look into memory."""

    def __init__(self, log: EventLog, clock: Clock, ids: Ids, secret: bytes) -> None:
        self._log = log
        self._clock = clock
        self._ids = ids
        self._secret = hmac.digest(secret, b"daybook origins v1", hashlib.sha256)
        self._known: OrderedDict[_Key, UUID] = OrderedDict()
        self._strangers = MemoryBuckets()

    async def of(self, scope: Scope, organization: str, actor: Actor, account_id: UUID | None = None) -> UUID:
        """Where this request comes from; in the log when this returns. `account_id` is an account that they have shown
        to be theirs without a token; without either they are one of the month's strangers. Raises `LogUnavailable`."""
        stranger = CALLER not in scope and account_id is None
        whose = account_id or actor.account_id or actor.patient_id or actor.id
        person = strangers(self._clock.now()) if stranger else str(whose)
        agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
        # What is no text of PostgreSQL's (a NUL) can't come through HTTP; latin-1 takes all the rest.
        words = agent[:_LONGEST_AGENT].decode("latin-1")
        address = client_address(scope)
        key = (organization, actor.id, person, actor.session_id, actor.client_id, address, words)
        if (known := self._recall(key)) is not None:
            return known
        if stranger and await self._strangers.take(subscriber(address), _OF_ONE) < 0:
            key = (organization, actor.id, person, None, None, address, "")
            if (known := self._recall(key)) is not None:
                return known
        if stranger and await self._strangers.take("all", _OF_ALL) < 0:
            key = (organization, actor.id, person, None, None, "", "")
            if (known := self._recall(key)) is not None:
                return known
        origin_id = self._id(key)
        await self._write(origin_id, key)
        self._known[key] = origin_id
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return origin_id

    def _recall(self, key: _Key) -> UUID | None:
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def _id(self, key: _Key) -> UUID:
        said = json.dumps(key, default=str, separators=(",", ":")).encode()
        digest = bytearray(hmac.digest(self._secret, said, hashlib.sha256)[:16])
        # RFC 9562 §5.8: version 8 is for ids that are made in a way of one's own.
        digest[6] = digest[6] & 0x0F | 0x80
        digest[8] = digest[8] & 0x3F | 0x80
        return UUID(bytes=bytes(digest))

    async def _write(self, origin_id: UUID, key: _Key) -> None:
        organization, actor_id, person, session_id, client_id, address, agent = key
        seen = OriginSeen(
            origin_id=origin_id,
            person=person,
            session_id=session_id,
            client_id=client_id,
            address=address,
            agent=agent or None,
        )
        command_id = self._ids.new()
        context = Context(organization, actor_id, command_id, command_id)
        name = stream(origin_id)
        event = NewEvent(name, seen, self._clock.now(), self._ids.new())
        # In conflict it was written before: by another process, or by this one, which forgot.
        with suppress(VersionConflict):
            await self._log.append(Save(context, {name: 0}, [event]))
