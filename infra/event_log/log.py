"""The event log in PostgreSQL: saves go in, events come out. Implements `domain.ports.EventLog`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self
from uuid import UUID

from domain.ports import KeyReused, Keyring, LogUnavailable, Recorded, Save, Saved, VersionConflict
from domain.refusals import Invalid
from infra.clock import DatabaseClock
from infra.event_log.codec import Stored, decode, encode, person_of, persons_in, without_words
from infra.event_log.connections import Connections
from infra.event_log.reader import Reader, Row
from infra.event_log.rows import Draft, NotARow, author, columns, draft, text
from infra.event_log.watch import Watch
from infra.event_log.writer import Remember, Stats, Writer, saved_before
from streams.deadletters import Unreadable, Which

_LONGEST_NAME = 512
_BITE = 500
_REMEMBERED = (
    "SELECT body_hash, first_position, last_position, result, recorded_at FROM commands"
    " WHERE organization = %s AND actor = %s AND key = %s"
)
_MARKS = (
    "SELECT position, organization, stream, name, recorded_at FROM all_events"
    " WHERE position > %s AND position <= %s AND name = ANY(%s) ORDER BY position LIMIT %s"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """That something of a kind happened, where and when; what it says is not read. `stream` is the full name."""

    position: int
    organization: str
    stream: str
    name: str
    recorded_at: datetime


class PostgresEventLog:
    """Open it inside the event loop that uses it: `async with PostgresEventLog(dsn, keyring) as log`.

    `dsn` is entered as the application's role. `clock` follows the database's time. `patience` is how many seconds a
    question or a save may take before `LogUnavailable`.
    """

    def __init__(
        self,
        dsn: str,
        keyring: Keyring,
        *,
        clock: DatabaseClock | None = None,
        patience: float = 5.0,
        readers: int = 4,
    ) -> None:
        self.clock = clock or DatabaseClock()
        # Called with the organization and the id of whoever is forgotten (`infra.erasures`).
        self.forgotten: list[Callable[[str, str], None]] = []
        self._keyring = keyring
        self._patience = patience
        self._connections = Connections(dsn, "reader", size=readers, patience=patience)
        self._reader = Reader(self._connections)
        self._watch = Watch(dsn, self.clock)
        self._writer = Writer(dsn, self.clock, on_commit=self._watch.advance, patience=patience)

    async def open(self) -> None:
        """Raises `LogUnavailable` when the log can't be reached; later losses are recovered from."""
        await self._watch.open(self._patience)
        self._writer.start()

    async def close(self) -> None:
        """Finish the saves under way, then disconnect."""
        await self._writer.close()
        await self._watch.close()
        await self._connections.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @property
    def stats(self) -> Stats:
        return self._writer.stats

    @property
    def pending(self) -> int:
        """How many saves of this process wait to be committed."""
        return self._writer.pending

    @property
    def seen(self) -> int:
        """The last position that this process has heard of."""
        return self._watch.seen

    def on_batch(self, told: Callable[[int, int, float], None]) -> None:
        """Have `told` called with (saves, events, seconds) of each transaction that wrote."""
        self._writer.on_batch = told

    async def append(self, save: Save) -> Saved:
        """See the port. Raises `Invalid` for text that the log can't hold, and `ValueError` when a written stream has
        no expected version."""
        context = save.context
        prefix = _prefix(context.organization)
        for new in save.events:
            if new.stream not in save.expected:
                raise ValueError("a stream is written without an expected version")
        keys: Mapping[str, bytes | None] = {}
        persons = {person for new in save.events if (person := person_of(new.event)) is not None}
        if persons:
            keys = await self._keyring.keys(context.organization, persons, create=True)
        remember = None
        if (memory := save.memory) is not None:
            remember = Remember(context.organization, context.actor, memory.key, memory.body_hash, memory.result)
        try:
            return await self._writer.submit(
                {prefix + stream: version for stream, version in save.expected.items()},
                _drafts(save, prefix, keys),
                remember=remember,
            )
        except VersionConflict as conflict:
            cut = len(prefix)
            raise VersionConflict({name[cut:]: version for name, version in conflict.actual.items()}) from None

    async def key_for(self, organization: str, person: UUID) -> None:
        await self._keyring.keys(organization, [str(person)], create=True)

    async def remembered(self, organization: str, actor: str, key: str, body_hash: bytes) -> Saved | None:
        for words in (organization, actor, key):
            text(words)
        rows = await self._connections.fetch(_REMEMBERED, (organization, actor, key))
        if not rows:
            return None
        known_hash, first, last, result, recorded_at = rows[0]
        if known_hash != body_hash:
            raise KeyReused("the key was used with another body")
        return saved_before(first, last, result, recorded_at)

    async def load(
        self, organization: str, after: Mapping[str, int], *, upto: int | None = None
    ) -> Mapping[str, Sequence[Recorded]]:
        prefix = _prefix(organization)
        for stream in after:
            text(stream)
        found = await self._reader.load({prefix + stream: version for stream, version in after.items()}, upto)
        events = await self._recorded([row for rows in found for row in rows])
        answer: dict[str, Sequence[Recorded]] = {}
        start = 0
        for stream, rows in zip(after, found, strict=True):
            answer[stream] = events[start : start + len(rows)]
            start += len(rows)
        return answer

    async def streams(
        self, organization: str, first: str, last: str, *, limit: int | None = None, backwards: bool = False
    ) -> Sequence[str]:
        prefix = _prefix(organization)
        for name in (first, last):
            text(name)
        names = await self._reader.streams(prefix + first, prefix + last, limit=limit, backwards=backwards)
        return [name[len(prefix) :] for name in names]

    async def read(self, after: int, limit: int) -> Sequence[Recorded]:
        return await self._recorded(await self._reader.after(after, limit))

    async def named(self, names: Sequence[str], after: int, upto: int) -> Sequence[Recorded]:
        """The events of these names with positions after `after` up to `upto`, of every organization, in order. Each
        row in between is looked at by the database, so a long way is asked for in bites."""
        return await self._recorded(await self._reader.named(names, after, upto))

    async def marks(self, after: int, upto: int, names: Sequence[str], limit: int) -> Sequence[Mark]:
        """The first `limit` events of these names with positions after `after` and not beyond `upto`, in order."""
        return [Mark(*row) for row in await self._connections.fetch(_MARKS, (after, upto, list(names), limit))]

    async def head(self) -> int:
        rows = await self._connections.fetch("SELECT position FROM log_head")
        position = int(rows[0][0])
        self._watch.advance(position)
        return position

    async def wait(self, after: int, timeout: float) -> int:
        return await self._watch.wait(after, timeout)

    async def position_at(self, instant: datetime) -> int:
        rows = await self._connections.fetch("SELECT position_at(%s::timestamptz)", (instant,))
        return int(rows[0][0])

    async def opened(self, rows: Sequence[bytes | Row]) -> Sequence[Recorded | Unreadable]:
        """The events of rows v1, or of their `columns`, in their order; what can't be read is told in its place and
        hides nothing else.

        Raises `LogUnavailable` where keys are needed and can't be asked for."""
        found: list[Recorded | Unreadable] = []
        for start in range(0, len(rows), _BITE):
            found += await self._opened(rows[start : start + _BITE])
            # Whoever else lives in the event loop gets a turn.
            await asyncio.sleep(0)
        return found

    async def _opened(self, rows: Sequence[bytes | Row]) -> list[Recorded | Unreadable]:
        read: list[Row | None] = []
        for row in rows:
            try:
                read.append(columns(row) if isinstance(row, bytes) else row)
            except NotARow:
                read.append(None)
        try:
            events = iter(await self._recorded([row for row in read if row is not None]))
            return [Unreadable(NotARow.__name__) if row is None else next(events) for row in read]
        except LogUnavailable:
            raise
        except Exception:  # whatever a row that somebody else wrote makes of the codec: it is looked for one by one
            return [await self._one_opened(row) for row in read]

    async def _one_opened(self, row: Row | None) -> Recorded | Unreadable:
        if row is None:
            return Unreadable(NotARow.__name__)
        try:
            return (await self._recorded([row]))[0]
        except LogUnavailable:
            raise
        except Exception as error:
            which = Which(row[0], row[1], row[2][len(row[1]) + 1 :], row[3], row[5], row[14])
            return Unreadable(type(error).__name__, which)

    async def _recorded(self, rows: Sequence[Row]) -> list[Recorded]:
        stored = [Stored(row[0], row[1], row[4], row[5], row[6]) for row in rows]
        wanted: dict[str, set[str]] = {}
        for item in stored:
            if persons := persons_in(item):
                wanted.setdefault(item.organization, set()).update(persons)
        keys = {
            organization: await self._keyring.keys(organization, persons) for organization, persons in wanted.items()
        }
        return [
            Recorded(
                position=row[0],
                organization=row[1],
                stream=row[2][len(row[1]) + 1 :],
                version=row[3],
                event_id=row[4],
                event=decode(item, keys.get(item.organization, {})),
                occurred_at=row[13],
                recorded_at=row[14],
                actor=row[7],
                command_id=row[10],
                correlation_id=row[11],
                causation_id=row[12],
                on_behalf_of=row[8],
                purpose=row[9],
            )
            for row, item in zip(rows, stored, strict=True)
        ]


def _prefix(organization: str) -> str:
    # A slash would let one organization name another's streams.
    if not organization or "/" in organization:
        raise Invalid("an organization's name is not empty and holds no slash")
    text(organization)
    return organization + "/"


def _drafts(save: Save, prefix: str, keys: Mapping[str, bytes | None]) -> list[Draft]:
    context = save.context
    organization = context.organization
    by = author(
        organization=organization,
        actor=context.actor,
        on_behalf_of=context.on_behalf_of,
        purpose=context.purpose,
        command_id=context.command_id,
        correlation_id=context.correlation_id,
        causation_id=context.causation_id,
    )
    drafts = []
    for new in save.events:
        event = new.event
        if len(new.stream) > _LONGEST_NAME:
            raise Invalid("a stream's name is too long")
        key = None
        if keys and (person := person_of(event)) is not None and (key := keys[person]) is None:
            # They were forgotten, which holds for words that come later too.
            event = without_words(event)
        payload = encode(event, organization, new.event_id, key)
        drafts.append(draft(by, prefix + new.stream, new.event_id, event.NAME, payload, new.occurred_at))
    return drafts
