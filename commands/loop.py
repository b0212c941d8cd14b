"""The one loop that every command goes through: load, fold, decide, append, and again when somebody was faster.

In: a command and who asks. Out: an answer with its position in the log, or a refusal. A handler only names the streams
that it needs and the decision that it asks; what it read becomes the expected versions of the save, so a decision made
on what has changed since is not written but made again.

Folded states are cached by version. The save's version check makes a stale cache safe for saying yes, so the hot path
needs no read; a no is said only after a fresh read.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import repeat
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json, to_json

from domain import (
    access,
    account,
    address,
    appointment,
    assertion,
    availability,
    client,
    consent,
    disclosure,
    glass,
    holder,
    mfa_policy,
    outside,
    patient,
    provider,
    proxy,
    reminder,
    resource,
    retention,
    series,
    session,
)
from domain.access import Actor, Reach, Standing
from domain.account import Account
from domain.address import Address
from domain.appointment import Appointment
from domain.assertion import ClientAssertionUsed
from domain.availability import PageId, Shelf, page_stream
from domain.client import Client
from domain.consent import Consents
from domain.events import Event
from domain.holder import Holder
from domain.mfa_policy import MfaPolicy
from domain.outside import Identity
from domain.patient import Patient
from domain.ports import (
    Clock,
    Context,
    Credentials,
    EventLog,
    HolidayCalendar,
    Ids,
    Memory,
    NewEvent,
    Save,
    Saved,
    VersionConflict,
)
from domain.provider import Provider
from domain.proxy import Charges, Proxies
from domain.refusals import Refusal, Unknown
from domain.reminder import Reminder
from domain.resource import Resource
from domain.retention import RetentionPolicy
from domain.series import Series
from domain.session import Session

S = TypeVar("S")
K = TypeVar("K", bound="Key")
C = TypeVar("C", bound="Command")

# A loser of a race decides again at once; more than this many lost races in a row is congestion, not bad luck.
ATTEMPTS = 12
CACHED_STATES = 50_000
# What is known of a stream that nobody has looked at.
NOTHING: tuple[int, Any] = (0, None)
# What names one aggregate of a kind: an id, or several where one stands under another.
Key = UUID | tuple[UUID, ...]


class Command(BaseModel):
    """What somebody asks for, in the imperative. Frozen; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class VersionMismatch(Refusal):
    """What the asker looked at has changed since. Read it again, and decide again (RFC 9110 §13.1.1)."""

    code = "version_mismatch"
    status = 412


class Busy(Exception):
    """Retries ran out. Nothing is said of the time asked for; ask again shortly (503 with `Retry-After`)."""


@dataclass(frozen=True, slots=True)
class Aggregate(Generic[S]):
    """How to name a stream and fold its events."""

    stream: Callable[[Any], str]
    evolve: Callable[[S | None, Event], S]


APPOINTMENT: Aggregate[Appointment] = Aggregate(appointment.stream, appointment.evolve)
PROVIDER: Aggregate[Provider] = Aggregate(provider.stream, provider.evolve)
PATIENT: Aggregate[Patient] = Aggregate(patient.stream, patient.evolve)
RESOURCE: Aggregate[Resource] = Aggregate(resource.stream, resource.evolve)
SERIES: Aggregate[Series] = Aggregate(series.stream, series.evolve)
REMINDER: Aggregate[Reminder] = Aggregate(reminder.stream, reminder.evolve)
CLIENT: Aggregate[Client] = Aggregate(client.stream, client.evolve)
ASSERTION: Aggregate[ClientAssertionUsed] = Aggregate(assertion.stream, assertion.evolve)
SESSION: Aggregate[Session] = Aggregate(session.stream, session.evolve)
CONSENTS: Aggregate[Consents] = Aggregate(consent.stream, consent.evolve)
PROXIES: Aggregate[Proxies] = Aggregate(proxy.stream, proxy.evolve)
CHARGES: Aggregate[Charges] = Aggregate(proxy.charges_stream, proxy.take_on)
RETENTION: Aggregate[RetentionPolicy] = Aggregate(retention.stream, retention.evolve)
ACCOUNT: Aggregate[Account] = Aggregate(account.stream, account.evolve)
ADDRESS: Aggregate[Address] = Aggregate(address.stream, address.evolve)
IDENTITY: Aggregate[Identity] = Aggregate(outside.stream, outside.evolve)
HOLDER: Aggregate[Holder] = Aggregate(holder.stream, holder.evolve)
MFA_POLICY: Aggregate[MfaPolicy] = Aggregate(mfa_policy.stream, mfa_policy.evolve)

_FOLDS: dict[str, Callable[[Any, Event], Any]] = {
    "appointment": appointment.evolve,
    "provider": provider.evolve,
    "patient": patient.evolve,
    "resource": resource.evolve,
    "series": series.evolve,
    "reminder": reminder.evolve,
    "client": client.evolve,
    "assertion": assertion.evolve,
    "session": session.evolve,
    "consent": consent.evolve,
    "disclosures": disclosure.evolve,
    "proxies": proxy.evolve,
    "charges": proxy.take_on,
    "glass": glass.evolve,
    "retention": retention.evolve,
    "account": account.evolve,
    "email": address.evolve,
    "outside": outside.evolve,
    "holder": holder.evolve,
    "mfa_policy": mfa_policy.evolve,
    "page": availability.evolve,
}


def fold_of(stream: str) -> Callable[[Any, Event], Any]:
    """The fold that belongs to a stream's kind."""
    return _FOLDS[stream.partition("/")[0]]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a handler decided: changes to save together, and the answer to give.

    Events are true from now on, unless `occurred_at` says since when: one instant for each change (past visits).
    `folded` are states after the changes, by stream, where the handler has folded them itself; then these alone are
    kept for the next command. `account_id` is the account that whoever asks without a token turned out to own, or
    makes: where they are is its owner's to have forgotten."""

    changes: Sequence[tuple[str, Event]]
    answer: Mapping[str, Any] = field(default_factory=dict)
    occurred_at: Sequence[datetime] | None = None
    folded: Mapping[str, Any] | None = None
    account_id: UUID | None = None


# What a decision comes of, asked for once it is made, where that says whose it is.
Cause = Callable[[Decision], Awaitable[UUID | None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the asker gets: JSON-ready content and the log position of the last event (0: nothing was written)."""

    content: Mapping[str, Any]
    position: int
    replayed: bool = False


class StateCache:
    """Folded states by stream, each with its version; the least recently used give way."""

    __slots__ = ("_limit", "_states")

    def __init__(self, limit: int = CACHED_STATES) -> None:
        self._states: OrderedDict[tuple[str, str], tuple[int, Any]] = OrderedDict()
        self._limit = limit

    def get(self, organization: str, stream: str) -> tuple[int, Any] | None:
        found = self._states.get((organization, stream))
        if found is not None:
            self._states.move_to_end((organization, stream))
        return found

    def __len__(self) -> int:
        return len(self._states)

    def clear(self, organization: str) -> None:
        """Let go of an organization's states, as when somebody whose words are in some of them is forgotten."""
        for key in [key for key in self._states if key[0] == organization]:
            del self._states[key]

    def put(self, organization: str, stream: str, version: int, state: Any) -> None:
        """Keep a state unless a later version of it is kept already."""
        key = (organization, stream)
        known = self._states.get(key)
        if known is None or known[0] <= version:
            self._states[key] = (version, state)
            self._states.move_to_end(key)
            if len(self._states) > self._limit:
                self._states.popitem(last=False)


class Queues:
    """Commands of this process on one page queue up here instead of colliding in the log.

    Places are taken in the order of the keys, so that no two commands wait for each other.
    """

    def __init__(self) -> None:
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._users: dict[tuple[str, str], int] = {}

    async def take(self, keys: Sequence[tuple[str, str]]) -> None:
        """Wait for a place in each queue, all or none. Give them back with `leave`."""
        taken: list[tuple[str, str]] = []
        try:
            for key in keys:
                lock = self._locks.get(key)
                if lock is None:
                    lock = self._locks[key] = asyncio.Lock()
                self._users[key] = self._users.get(key, 0) + 1
                try:
                    await lock.acquire()
                except BaseException:
                    self._forget(key)
                    raise
                taken.append(key)
        except BaseException:
            self.leave(taken)
            raise

    @property
    def waiting(self) -> int:
        """How many places in queues are waited for; a place that is had is not counted."""
        return sum(self._users.values()) - len(self._users)

    def leave(self, keys: Iterable[tuple[str, str]]) -> None:
        for key in keys:
            self._locks[key].release()
            self._forget(key)

    def _forget(self, key: tuple[str, str]) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key], self._locks[key]


class Reading:
    """What one attempt at a command has read. Every stream read becomes an expected version of the save."""

    def __init__(self, desk: Desk, organization: str, *, fresh: bool, queue: bool) -> None:
        self.desk = desk
        self.organization = organization
        self.now = desk.clock.now()
        self.expected: dict[str, int] = {}
        self.states: dict[str, Any] = {}
        self.from_cache = False
        # In what standing the actor reaches what they ask for; None until that is decided (`commands/access.py`).
        self.standing: Standing | None = None
        self._fresh = fresh
        self._queue = queue
        self._places: Sequence[tuple[str, str]] = ()
        self._asked = False

    async def __aenter__(self) -> Reading:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.desk.queues.leave(self._places)

    async def find(self, aggregate: Aggregate[S], key: Key) -> S | None:
        """The state of one aggregate, or None where there is none."""
        stream = aggregate.stream(key)
        await self._read([stream])
        state: S | None = self.states[stream]
        return state

    async def get(self, aggregate: Aggregate[S], key: Key) -> S:
        """The state of one aggregate. Raises `Unknown`."""
        state = await self.find(aggregate, key)
        if state is None:
            raise Unknown("unknown id", id=str(key))
        return state

    async def both(self, one: tuple[Aggregate[Any], Key], other: tuple[Aggregate[Any], Key]) -> None:
        """Read two in one round trip, ahead of asking for each."""
        await self._read([one[0].stream(one[1]), other[0].stream(other[1])])

    async def each(self, aggregate: Aggregate[S], keys: Iterable[K]) -> Mapping[K, S | None]:
        """The states of many, in one round trip; None where there is none."""
        streams = {key: aggregate.stream(key) for key in keys}
        await self._read(streams.values())
        return {key: self.states[stream] for key, stream in streams.items()}

    async def alone(self, aggregate: Aggregate[S], key: UUID) -> S | None:
        """The state of one aggregate, for work on it that is too dear to be done again: others of this process wait.
        Ask once, and before any other reading rests on the time."""
        if self._places:
            raise RuntimeError("a handler queues once")
        places = [(self.organization, aggregate.stream(key))]
        await self.desk.queues.take(places)
        self._places = places
        self.now = self.desk.clock.now()
        return await self.find(aggregate, key)

    async def pages(self, wanted: Iterable[PageId]) -> Shelf:
        """The pages that a decision rests on. Ask once, for all: the places in the queues are taken in one order."""
        pages = list(dict.fromkeys(wanted))
        streams = {page: page_stream(*page) for page in pages}
        if self._asked:
            raise RuntimeError("a handler asks for its pages once, for all of them")
        self._asked = True
        if self._queue:
            places = [(self.organization, stream) for stream in sorted(streams.values())]
            await self.desk.queues.take(places)
            self._places = places
            # Whoever was ahead in the queue may have taken the time to the clock's next instant.
            self.now = self.desk.clock.now()
        await self._read(streams.values())
        return Shelf({page: self.states[stream] for page, stream in streams.items()})

    async def glance(self, wanted: Iterable[PageId]) -> Shelf:
        """Pages to look at without resting a decision on them, as when alternatives are sought."""
        streams = {page: page_stream(*page) for page in dict.fromkeys(wanted)}
        seen = await self.desk.states(self.organization, streams.values())
        return Shelf({page: seen[stream][1] for page, stream in streams.items()})

    async def _read(self, streams: Iterable[str]) -> None:
        behind: dict[str, tuple[int, Any]] = {}
        for stream in streams:
            if stream in self.expected:
                continue
            known = self.desk.cache.get(self.organization, stream)
            if known is None or self._fresh:
                behind[stream] = known or NOTHING
            else:
                self.from_cache = True
                self.expected[stream], self.states[stream] = known
        if behind:
            for stream, known in (await self.desk.catch_up(self.organization, behind)).items():
                self.expected[stream], self.states[stream] = known

    def refuse_if_changed(self, stream: str, version: int) -> None:
        """Raises `VersionMismatch` where the command read another version of the stream than its asker saw."""
        if self.expected.get(stream, version) != version:
            raise VersionMismatch("this was changed by somebody else since you read it")

    def new(self, stream: str) -> None:
        """Expect a stream that no one can have written: its id was made just now."""
        self.expected[stream] = 0
        self.states[stream] = None


Handler = Callable[[C, Reading, Actor], Awaitable[Decision]]
OnRefusal = Callable[[C, Reading, Refusal], Awaitable[None]]
HANDLERS: dict[type[Command], tuple[Handler[Any], OnRefusal[Any] | None]] = {}
# The row of the policy table that each command stands on.
ACTIONS: dict[type[Command], str] = {}


def handles(kind: type[C], may: str, *, on_refusal: OnRefusal[C] | None = None) -> Callable[[Handler[C]], Handler[C]]:
    """Register the handler of a command. `may` is the row of the policy table that says who may ask for it.
    `on_refusal` may add to a refusal's details before it is given."""

    def register(handler: Handler[C]) -> Handler[C]:
        HANDLERS[kind] = (handler, on_refusal)
        ACTIONS[kind] = may
        return handler

    return register


class Observer(Protocol):
    """Hears how commands fare, on the way of each of them: it neither waits nor raises."""

    def began(self, command: Command, context: Context) -> Any:
        """What this returns is given back at the end."""

    def ended(self, begun: Any, answer: Answer | None, error: BaseException | None) -> None:
        """It was answered, or refused or broken off by an error."""


@dataclass(slots=True)
class Stats:
    """How often a decision was made again: since the log had moved on, or to be sure of a refusal."""

    conflicts: int = 0
    second_looks: int = 0


@dataclass(slots=True)
class Desk:
    """Where commands are taken: the log, the clock and ids handed in, with this process's cache and queues."""

    log: EventLog
    clock: Clock
    ids: Ids
    holidays: HolidayCalendar
    video_url_template: str = "https://video.example.org/{organization}/{room}"
    # Hashes of bodies outlive what was in them, so nobody without this key may try out what that was.
    memory_key: bytes = field(default=b"", repr=False)
    credentials: Credentials | None = None
    cache: StateCache = field(default_factory=StateCache)
    queues: Queues = field(default_factory=Queues)
    observers: tuple[Observer, ...] = ()
    stats: Stats = field(default_factory=Stats)

    async def handle(
        self,
        command: Command,
        actor: Actor,
        organization: str,
        *,
        key: str | None = None,
        correlation_id: UUID | None = None,
        causation_id: UUID | None = None,
        cause: Cause | None = None,
        command_id: UUID | None = None,
        on_behalf_of: str | None = None,
        purpose: str | None = None,
        seen: tuple[str, int] | None = None,
    ) -> Answer:
        """Carry a command out. With a `key`, a repeat answers as the first did, after a crash too. `seen` is a stream
        of the command and the version of it that the asker saw; it is refused when that has changed. `cause` stands in
        for `causation_id`, and is asked only where something is to be written.

        Raises `Refusal`, `Busy`, `KeyReused`, `LogUnavailable`.
        """
        command_id = command_id or self.ids.new()
        context = Context(
            organization=organization,
            actor=actor.id,
            command_id=command_id,
            correlation_id=correlation_id or command_id,
            causation_id=causation_id,
            on_behalf_of=on_behalf_of,
            purpose=purpose,
        )
        begun = [observer.began(command, context) for observer in self.observers]
        answer: Answer | None = None
        error: BaseException | None = None
        try:
            answer = await self._decided(command, actor, context, key, seen, cause)
            return answer
        except BaseException as raised:
            error = raised
            raise
        finally:
            for observer, its in zip(self.observers, begun, strict=True):
                observer.ended(its, answer, error)

    async def _decided(
        self,
        command: Command,
        actor: Actor,
        context: Context,
        key: str | None,
        seen: tuple[str, int] | None,
        cause: Cause | None,
    ) -> Answer:
        organization = context.organization
        body_hash = self._body_hash(command) if key is not None else b""
        handler, on_refusal = HANDLERS[type(command)]
        fresh, queue = False, True
        for _ in range(ATTEMPTS):
            async with Reading(self, organization, fresh=fresh, queue=queue) as reading:
                try:
                    decision = await _allowed(handler, command, reading, actor)
                    # Only now, so that who may not see it is not told how often it changed.
                    if seen is not None:
                        reading.refuse_if_changed(*seen)
                except Refusal as refusal:
                    if reading.from_cache:
                        fresh, queue = True, False
                        self.stats.second_looks += 1
                        continue
                    if key is not None and (said := await self.log.remembered(organization, actor.id, key, body_hash)):
                        return _replayed(said)
                    if on_refusal is not None:
                        await on_refusal(command, reading, refusal)
                    raise
                memory = Memory(key, body_hash, to_json(decision.answer)) if key is not None else None
                if not decision.changes and memory is None:
                    return Answer(decision.answer, 0)
                if cause is not None:
                    context = replace(context, causation_id=await cause(decision))
                save = self._save(_for_whom(context, reading), reading, decision, memory)
                try:
                    saved = await self.log.append(save)
                except VersionConflict:
                    fresh, queue = True, True
                    self.stats.conflicts += 1
                    continue
                if saved.replayed:
                    return _replayed(saved)
                self._keep(organization, reading, decision)
                return Answer(decision.answer, saved.position)
        raise Busy("too many are after the same thing just now; ask again shortly")

    async def answered(self, command: Command, actor: Actor, organization: str, key: str) -> Answer | None:
        """What this command was answered under this key, if it was. Raises `KeyReused`, `LogUnavailable`."""
        said = await self.log.remembered(organization, actor.id, key, self._body_hash(command))
        return _replayed(said) if said else None

    async def states(self, organization: str, streams: Iterable[str]) -> Mapping[str, tuple[int, Any]]:
        """Folded states with their versions, as they were when this process last looked."""
        found: dict[str, tuple[int, Any]] = {}
        behind: dict[str, tuple[int, Any]] = {}
        for stream in streams:
            known = self.cache.get(organization, stream)
            if known is None:
                behind[stream] = NOTHING
            else:
                found[stream] = known
        return {**found, **await self.catch_up(organization, behind)} if behind else found

    async def catch_up(self, organization: str, known: Mapping[str, tuple[int, Any]]) -> Mapping[str, tuple[int, Any]]:
        """States as the log has them now: what came after the known versions is read and folded in."""
        found = dict(known)
        after = {stream: version for stream, (version, _) in known.items()}
        for stream, rows in (await self.log.load(organization, after)).items():
            version, state = known[stream]
            fold = fold_of(stream)
            for row in rows:
                version, state = row.version, fold(state, row.event)
            found[stream] = (version, state)
            self.cache.put(organization, stream, version, state)
        return found

    def _body_hash(self, command: Command) -> bytes:
        said = type(command).__name__.encode() + b"\0" + command.model_dump_json().encode()
        return hashlib.blake2b(said, digest_size=32, key=self.memory_key).digest()

    def _save(self, context: Context, reading: Reading, decision: Decision, memory: Memory | None) -> Save:
        moments = repeat(reading.now) if decision.occurred_at is None else decision.occurred_at
        new = self.ids.new
        events = [
            NewEvent(stream, event, moment, new())
            for (stream, event), moment in zip(decision.changes, moments, strict=False)
        ]
        for event in events:
            # A stream that was written without having been read starts here.
            reading.expected.setdefault(event.stream, 0)
        return Save(context, reading.expected, events, memory)

    def _keep(self, organization: str, reading: Reading, decision: Decision) -> None:
        """What was saved is folded into the cache, so that the next command on it needs no read."""
        if decision.folded is not None:
            written = Counter(stream for stream, _ in decision.changes)
            for stream, state in decision.folded.items():
                self.cache.put(organization, stream, reading.expected[stream] + written[stream], state)
            return
        versions = dict(reading.expected)
        states = dict(reading.states)
        for stream, event in decision.changes:
            versions[stream] += 1
            states[stream] = fold_of(stream)(states.get(stream), event)
        for stream in dict.fromkeys(stream for stream, _ in decision.changes):
            self.cache.put(organization, stream, versions[stream], states[stream])


async def _allowed(handler: Handler[Any], command: Command, reading: Reading, actor: Actor) -> Decision:
    """What the handler decides, where the policy table lets the actor ask. A handler that asks for what not everybody
    reaches, and never says whose it is, is at fault, and nothing comes of it."""
    far = access.require(actor, ACTIONS[type(command)])
    decision = await handler(command, reading, actor)
    if reading.standing is None and far is not Reach.CLINIC:
        raise RuntimeError(f"{type(command).__name__} does not say whose it is")
    return decision


def _for_whom(context: Context, reading: Reading) -> Context:
    patient_id = reading.standing.on_behalf_of if reading.standing is not None else None
    return context if patient_id is None else replace(context, on_behalf_of=str(patient_id))


def _replayed(saved: Saved) -> Answer:
    return Answer(from_json(saved.result), saved.position, replayed=True)
