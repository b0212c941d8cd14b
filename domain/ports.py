"""What the house needs from outside: a log, a clock, ids, a keyring, a list of public holidays.

Streams are named inside an organization (`appointment/ID`, `page/RESOURCE/2026-03-01`); the log puts the organization
in front, so no caller can name another's stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from domain.events import Event


@dataclass(frozen=True, slots=True)
class Context:
    """Who asks, for whom and why; written beside every event of the command (45 CFR 164.312(b))."""

    organization: str
    actor: str
    command_id: UUID
    correlation_id: UUID
    causation_id: UUID | None = None
    on_behalf_of: str | None = None
    purpose: str | None = None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event about to be saved. `occurred_at` is when it was true: an aware instant, UTC."""

    stream: str
    event: Event
    occurred_at: datetime
    event_id: UUID


@dataclass(frozen=True, slots=True)
class Memory:
    """A command's answer, kept in the same transaction under (organization, actor, key)."""

    key: str
    body_hash: bytes
    result: bytes


@dataclass(frozen=True, slots=True)
class Save:
    """One atomic save.

    `expected` holds the version of every stream that the decision read, written or not; 0 means that the stream has
    no event. All are checked under one lock, together with the writing.
    """

    context: Context
    expected: Mapping[str, int]
    events: Sequence[NewEvent]
    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """Where the events of a save stand: one position each, consecutive. `position` is the last (0: nothing written).

    `result` is the remembered answer; `replayed` says that it comes from an earlier save with the same key.
    """

    position: int
    positions: Sequence[int]
    recorded_at: datetime
    result: bytes = b""
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as it stands in the log, with its columns."""

    position: int
    organization: str
    stream: str
    version: int
    event_id: UUID
    event: Event
    occurred_at: datetime
    recorded_at: datetime
    actor: str
    command_id: UUID
    correlation_id: UUID
    causation_id: UUID | None = None
    on_behalf_of: str | None = None
    purpose: str | None = None


class LogError(Exception):
    """The base of what a log says when it did not save."""


class VersionConflict(LogError):
    """Some stream has moved on. `actual` maps each such stream to its version now."""

    def __init__(self, actual: Mapping[str, int]) -> None:
        super().__init__(f"{len(actual)} stream(s) moved on")
        self.actual = dict(actual)


class KeyReused(LogError):
    """The idempotency key was used before with another body."""


class LogUnavailable(LogError):
    """The log can't be reached, or did not answer in time. Whether this save was made is not known; a repeat with the
    same key finds out."""


class UnreadableEvent(LogError):
    """A row of the log that this version of the programme can't read. Names the position and the event's name."""

    def __init__(self, position: int, name: str, why: str) -> None:
        super().__init__(f"position {position}, {name}: {why}")
        self.position = position
        self.name = name


class EventLog(Protocol):
    """The one source of truth. Every method raises `LogUnavailable` when the log can't be reached."""

    async def append(self, save: Save) -> Saved:
        """Save all or nothing. Raises `VersionConflict`, `KeyReused`. A remembered key answers as it first did."""

    async def key_for(self, organization: str, person: UUID) -> None:
        """Make the key that seals a person's words ahead of their first event, if they have none."""

    async def remembered(self, organization: str, actor: str, key: str, body_hash: bytes) -> Saved | None:
        """The answer given to this key before, or None. Raises `KeyReused` when the body was another."""

    async def load(
        self, organization: str, after: Mapping[str, int], *, upto: int | None = None
    ) -> Mapping[str, Sequence[Recorded]]:
        """The events of several streams in one round trip, in order, each stream after the given version.

        `upto` is a position: later events are left out. A stream without events maps to an empty sequence.
        """

    async def streams(
        self, organization: str, first: str, last: str, *, limit: int | None = None, backwards: bool = False
    ) -> Sequence[str]:
        """The names of the streams between `first` and `last`, both included, in code point order, or `backwards` from
        `last` on; no more than `limit` of them, and then no more is read than they need."""

    async def read(self, after: int, limit: int) -> Sequence[Recorded]:
        """Up to `limit` events with positions after `after`, of every organization, in order, without a gap."""

    async def head(self) -> int:
        """The last position; 0 for an empty log."""

    async def wait(self, after: int, timeout: float) -> int:
        """Return the head as soon as it is past `after`, or at the end of `timeout` seconds."""

    async def position_at(self, instant: datetime) -> int:
        """The last position recorded at or before the instant; 0 when there is none."""


class Clock(Protocol):
    def now(self) -> datetime:
        """The present instant, aware, UTC: the database's clock, followed by a measured offset."""


class Ids(Protocol):
    def new(self) -> UUID:
        """A new UUIDv7 (RFC 9562)."""

    def secret(self) -> str:
        """A name of at least 128 random bits, safe in a URL."""


class Keyring(Protocol):
    """Data keys of persons: 32 bytes each, wrapped by a master key that lies outside the database."""

    async def keys(
        self, organization: str, persons: Iterable[str], *, create: bool = False
    ) -> Mapping[str, bytes | None]:
        """The data key of each person; None where there is none (never made, or destroyed). `create` makes those that
        were never made, durably first; a destroyed one is never made anew. Raises `LogUnavailable` when the store can't
        be reached."""


class Blinds(Protocol):
    def of(self, purpose: str, *words: str) -> bytes:
        """32 bytes made of the words with a key that lies outside the database: always the same, and nobody without
        the key can make or try them (HMAC-SHA-256)."""


class Passwords(Protocol):
    async def hash(self, password: str) -> str:
        """Slow and memory-hard on purpose (Argon2id), in PHC string format."""

    async def verify(self, hashed: str | None, password: str) -> bool:
        """Where there is no hash the same work is done, and the answer is no."""

    def needs_rehash(self, hashed: str) -> bool:
        """Whether it was made with weaker parameters than today's."""

    def is_common(self, password: str) -> bool:
        """Whether it is among those that are guessed first."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What accounts need from outside. `site` is the origin that browsers show (`https://book.example.org`): passkeys
    are bound to it (WebAuthn Level 2 §13.4.9), and links in mails lead there. `name` is what authenticators show."""

    blinds: Blinds
    passwords: Passwords
    site: str = "http://localhost:8000"
    name: str = "Daybook"


class Mailer(Protocol):
    async def send(self, to: str, subject: str, text: str) -> None:
        """Hand one letter over, in plain text. Raises `MailLost`."""


class MailLost(Exception):
    """The letter was not taken. Whoever waits for it asks again."""


@dataclass(frozen=True, slots=True)
class PublicHoliday:
    date: date
    name: str


class HolidayCalendar(Protocol):
    def between(self, country: str, subdivision: str | None, first: date, last: date) -> Sequence[PublicHoliday]:
        """Public holidays of a country (ISO 3166-1 alpha-2) or a part of it, both dates included.

        Raises `domain.refusals.Invalid` for a place that nobody knows."""


@dataclass(slots=True)
class FixedClock:
    """A clock that stands still until it is moved: for imports of past times, and for tests."""

    instant: datetime = field()

    def now(self) -> datetime:
        return self.instant
