"""The book as it was at any instant: the log folded up to there, by the very folds that decisions rest on.

In: a log and a position. Out: the state of one stream, of an appointment or of a provider's day; or, with the whole log
folded, how many of everything there were. Sealed words are put out of sight before anything is folded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from commands.loop import fold_of
from domain.events import ERASED, Event
from domain.ports import EventLog
from infra.garbage import few_collections

_PAGE: Final = 2000

Progress = Callable[[int, int], None]


def veiled(event: Event) -> Event:
    """The event with every sealed word and every credential out of sight, as if its persons were forgotten."""
    told = {name: ERASED for name in {*event.SEALED_FIELDS, *event.CREDENTIALS} if getattr(event, name) is not None}
    return event.model_copy(update=told) if told else event


@dataclass(slots=True)
class Whole:
    """Everything folded. `states` are by full stream name; looks, and others without a fold, are only counted."""

    position: int = 0
    events: int = 0
    streams: Counter[str] = field(default_factory=Counter)
    states: dict[str, Any] = field(default_factory=dict)

    def appointments(self) -> Mapping[str, int]:
        """How many there were in each status."""
        kind = "appointment"
        statuses = (state.status for name, state in self.states.items() if name.split("/", 2)[1] == kind)
        return Counter(status.value for status in statuses)


async def whole(log: EventLog, upto: int, progress: Progress, *, organization: str | None = None) -> Whole:
    """Every stream of the log up to a position, folded. Raises `LogUnavailable`, `UnreadableEvent`."""
    found = Whole()
    with few_collections():
        await _fold_all(log, found, upto, progress, organization)
    return found


async def _fold_all(log: EventLog, found: Whole, upto: int, progress: Progress, organization: str | None) -> None:
    folds: dict[str, Callable[[Any, Event], Any] | None] = {}
    while found.position < upto:
        batch = await log.read(found.position, min(_PAGE, upto - found.position))
        if not batch:
            break
        for recorded in batch:
            if organization not in (None, recorded.organization):
                continue
            kind = recorded.stream.partition("/")[0]
            if kind not in folds:
                folds[kind] = _fold(recorded.stream)
            found.events += 1
            if recorded.version == 1:
                found.streams[kind] += 1
            fold = folds[kind]
            if fold is not None:
                name = f"{recorded.organization}/{recorded.stream}"
                found.states[name] = fold(found.states.get(name), veiled(recorded.event))
        found.position = batch[-1].position
        progress(found.position, upto)


async def stream_at(log: EventLog, organization: str, stream: str, upto: int) -> tuple[int, Any]:
    """A stream's version and state at a position; version 0 and None where it had no event yet. A stream without a fold
    of its own is told by its last event."""
    events = (await log.load(organization, {stream: 0}, upto=upto))[stream]
    fold = _fold(stream)
    version, state = 0, None
    for recorded in events:
        version = recorded.version
        event = veiled(recorded.event)
        state = event.model_dump(mode="python") if fold is None else fold(state, event)
    return version, state


def _fold(stream: str) -> Callable[[Any, Event], Any] | None:
    try:
        return fold_of(stream)
    except KeyError:
        return None
