"""Rooms and devices: what else a visit may need besides its provider. Their time is on pages like a provider's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar
from uuid import UUID

from domain.events import Event
from domain.provider import ResourceKind, Words
from domain.refusals import Refusal


class ResourceRegistered(Event):
    NAME: ClassVar[str] = "ResourceRegistered.v1"
    resource_id: UUID
    kind: ResourceKind
    name: Words


class ResourceRetiredFromUse(Event):
    """No new visit may name it; those booked stand."""

    NAME: ClassVar[str] = "ResourceRetiredFromUse.v1"
    resource_id: UUID


@dataclass(frozen=True, slots=True)
class Resource:
    id: UUID
    kind: ResourceKind
    name: str
    retired: bool = False


class AlreadyRetired(Refusal):
    code = "already_retired"


def stream(resource_id: UUID) -> str:
    return f"resource/{resource_id}"


def evolve(state: Resource | None, event: Event) -> Resource:
    match event:
        case ResourceRegistered():
            return Resource(event.resource_id, event.kind, event.name)
        case ResourceRetiredFromUse() if state is not None:
            return replace(state, retired=True)
    raise TypeError(f"{type(event).__name__} is not an event of a resource")


def retire(state: Resource) -> ResourceRetiredFromUse:
    if state.retired:
        raise AlreadyRetired("this resource is retired already")
    return ResourceRetiredFromUse(resource_id=state.id)
