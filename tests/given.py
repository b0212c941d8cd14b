"""Stories of the book: given what happened, when something is asked, then these events, or this refusal.

In: events, or the changes of earlier decisions. Out: nothing; a story that ends otherwise fails. A decision sees the
book through exactly the pages that its question names, so a rule that looks at an unread page is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Self
from uuid import UUID

import pytest

from domain import (
    appointment,
    availability,
    consent,
    glass,
    patient,
    provider,
    proxy,
    reminder,
    resource,
    retention,
    series,
    slots,
)
from domain.appointment import Appointment
from domain.availability import Entry, Page, PageEvent, PageId, Shelf
from domain.events import Event
from domain.provider import Provider, visit_type_of
from domain.refusals import Refusal
from domain.resource import Resource
from domain.slots import Diary, Wish
from domain.time import Period

Decision = Callable[["Book"], object]

EVOLVE: Mapping[str, Callable[[Any, Event], Any]] = {
    "appointment": appointment.evolve,
    "consent": consent.evolve,
    "glass": glass.evolve,
    "page": availability.evolve,
    "patient": patient.evolve,
    "provider": provider.evolve,
    "proxies": proxy.evolve,
    "charges": proxy.take_on,
    "reminder": reminder.evolve,
    "resource": resource.evolve,
    "retention": retention.evolve,
    "series": series.evolve,
}


def stream_of(event: Event) -> str:
    """The stream that an event belongs to, by what it says itself."""
    match event:
        case PageEvent():
            return availability.page_stream(event.resource_id, event.day)
        case provider.ProviderEvent():
            return provider.stream(event.provider_id)
        case appointment.AppointmentEvent():
            return appointment.stream(event.appointment_id)
        case resource.ResourceRegistered() | resource.ResourceRetiredFromUse():
            return resource.stream(event.resource_id)
        case series.SeriesBooked():
            return series.stream(event.series_id)
        case consent.ConsentGiven() | consent.ConsentWithdrawn():
            return consent.stream(event.patient_id)
        case proxy.ProxyGranted() | proxy.ProxyEnded():
            return proxy.stream(event.patient_id)
        case proxy.ProxyTakenOn():
            return proxy.charges_stream(event.holder_id)
        case retention.RetentionPolicySet() | retention.StrangersForgotten():
            return retention.STREAM
        case _ if type(event).__module__ == patient.__name__:
            return patient.stream(event.patient_id)  # type: ignore[attr-defined]
        case reminder.ReminderSent():
            return reminder.stream(event.reminder_id)
    raise TypeError(f"no stream is known for {type(event).__name__}")


def events_of(told: object) -> Iterator[Event]:
    """Events in whatever shape a decision gives them: one, several, or changes with the streams that they belong to."""
    match told:
        case Event():
            yield told
        case (str() as stream, Event() as event):
            assert stream == stream_of(event), f"{type(event).__name__} was sent to {stream}"
            yield event
        case Iterable():
            for part in told:
                yield from events_of(part)
        case _:
            raise TypeError(f"{type(told).__name__} holds no events")


def answer_to(decide: Callable[[], Iterable[object]]) -> list[Event] | Refusal:
    """What a decision says: the events that came of it, or its refusal."""
    try:
        return list(events_of(decide()))
    except Refusal as refusal:
        return refusal


@dataclass
class Book:
    """Everything that happened, folded: a log and its read side in one, small enough for a test."""

    now: datetime
    states: dict[str, Any] = field(default_factory=dict)

    def apply(self, told: object) -> Self:
        for event in events_of(told):
            stream = stream_of(event)
            self.states[stream] = EVOLVE[stream.split("/")[0]](self.states.get(stream), event)
        return self

    def provider(self, provider_id: UUID) -> Provider:
        found: Provider = self.states[provider.stream(provider_id)]
        return found

    def appointment(self, appointment_id: UUID) -> Appointment:
        found: Appointment = self.states[appointment.stream(appointment_id)]
        return found

    def appointments(self) -> list[Appointment]:
        return [state for state in self.states.values() if isinstance(state, Appointment)]

    def resource(self, resource_id: UUID) -> Resource:
        found: Resource = self.states[resource.stream(resource_id)]
        return found

    def page(self, resource_id: UUID, day: date) -> Page | None:
        return self.states.get(availability.page_stream(resource_id, day))

    def pages(self) -> list[Page]:
        return [state for state in self.states.values() if isinstance(state, Page)]

    def entries(self, resource_id: UUID) -> dict[UUID, Entry]:
        """What stands on any of a resource's pages."""
        return {
            key: entry
            for page in self.pages()
            if page.resource_id == resource_id
            for key, entry in page.entries.items()
        }

    def shelf(self, pages: Iterable[PageId]) -> Shelf:
        return Shelf({page: self.page(*page) for page in pages})

    def shelf_over(self, resource_id: UUID, period: Period) -> Shelf:
        return self.shelf((resource_id, day) for day in period.utc_days())

    def diary(self, provider_id: UUID, wish: Wish) -> Diary:
        """What decides about one wish, and not a page more."""
        known = self.provider(provider_id)
        return self._diary(known, wish, slots.pages_for(known, wish))

    def diary_for(self, provider_id: UUID, wishes: Iterable[Wish]) -> Diary:
        known, asked = self.provider(provider_id), list(wishes)
        return self._diary(known, asked[0], [page for wish in asked for page in slots.pages_for(known, wish)])

    def diary_between(self, provider_id: UUID, wish: Wish, first: date, last: date) -> Diary:
        known = self.provider(provider_id)
        return self._diary(known, wish, slots.pages_between(known, wish, first, last))

    def _diary(self, known: Provider, wish: Wish, pages: Iterable[PageId]) -> Diary:
        named = {key: self.resource(key) for key in wish.resources if resource.stream(key) in self.states}
        return Diary(known, self.shelf(pages), self.now, named)

    def occupied(self, provider_id: UUID, visit_type_id: UUID, start: datetime) -> Period:
        return visit_type_of(self.provider(provider_id), visit_type_id).occupied(start)


@dataclass
class Given:
    book: Book

    def at(self, now: datetime) -> Given:
        """The clock stands there when the next thing is asked."""
        return Given(Book(now, dict(self.book.states)))

    def when(self, decision: Decision) -> Then:
        try:
            return Then(self.book, list(events_of(decision(self.book))), None)
        except Refusal as refusal:
            return Then(self.book, [], refusal)


@dataclass
class Then:
    book: Book
    events: list[Any]
    refusal: Refusal | None

    def then(self, *expected: Event | type[Event]) -> Then:
        """These events came of it, in this order: each as it is, or one of that kind."""
        if self.refusal is not None:
            pytest.fail(f"refused with {self.refusal.code}: {self.refusal.message}")
        told = [
            type(event) if isinstance(wanted, type) else event
            for event, wanted in zip(self.events, expected, strict=False)
        ]
        assert told == list(expected)[: len(told)]
        assert [type(event).__name__ for event in self.events[len(told) :]] == []
        assert len(expected) == len(told), f"missing: {expected[len(told) :]}"
        return self

    def happened(self, kind: type[Event]) -> Then:
        """Something of that kind came of it, whatever else did."""
        if self.refusal is not None:
            pytest.fail(f"refused with {self.refusal.code}: {self.refusal.message}")
        assert kind in {type(event) for event in self.events}
        return self

    def refused(self, kind: type[Refusal], /, **details: object) -> Refusal:
        """Exactly this refusal, with at least these details."""
        assert self.refusal is not None, f"not refused; came of it: {[type(event).__name__ for event in self.events]}"
        assert type(self.refusal) is kind, f"refused with {self.refusal.code}: {self.refusal.message}"
        assert {name: self.refusal.details.get(name) for name in details} == details
        return self.refusal

    def and_then(self) -> Given:
        """The story goes on from there."""
        if self.refusal is not None:
            pytest.fail(f"refused with {self.refusal.code}: {self.refusal.message}")
        return Given(Book(self.book.now, dict(self.book.states)).apply(self.events))


def given(*happened: object, now: datetime) -> Given:
    return Given(Book(now).apply(happened))
