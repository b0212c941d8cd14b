"""What every event is, and how personal words inside one are marked.

An event is a past-tense fact, immutable, named with its version (`AppointmentBooked.v1`). The name is what the log
keeps; the class may move. A change of shape is a new name plus an upcaster (`domain/upcasters.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")


class Erased:
    """Stands where a person's words stood before the person was forgotten. There is one: `ERASED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ERASED"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.is_instance_schema(cls)


ERASED: Final = Erased()


class _Sealed:
    """Marks a field that the log's codec seals with the person's own key on its way in."""


SEALED: Final = _Sealed()

# `reason: Personal[str] | None` reads as the words, or as ERASED once the person's key is gone.
Personal = Annotated[T | Erased, SEALED]


class _Credential:
    """Marks a field by which somebody proves who they are, or that a proof is checked against: nobody is ever shown it,
    whoever may open seals."""


CREDENTIAL: Final = _Credential()

# As `Personal`, and a credential. One that lies open, being a hash of random bits, is `Annotated[str, CREDENTIAL]`.
Credential = Annotated[T | Erased, SEALED, CREDENTIAL]

EVENTS: dict[str, type[Event]] = {}


class Event(BaseModel):
    """The base of every event.

    `NAME` carries its version. Where fields are `Personal`, `PERSON` names the field that holds the id of the
    person whose key seals them. `QUIET` says that it is of the audit trail alone: no screen changes by it, so nobody
    waits for a read model to have come past it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    NAME: ClassVar[str]
    PERSON: ClassVar[str | None] = None
    SEALED_FIELDS: ClassVar[tuple[str, ...]] = ()
    CREDENTIALS: ClassVar[frozenset[str]] = frozenset()
    QUIET: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.SEALED_FIELDS = tuple(_marked(cls, SEALED))
        cls.CREDENTIALS = frozenset(_marked(cls, CREDENTIAL))
        if cls.SEALED_FIELDS and cls.PERSON not in cls.model_fields:
            raise TypeError(f"{cls.__name__} has personal fields but PERSON names no field of it")
        if "NAME" in cls.__dict__ and EVENTS.setdefault(cls.NAME, cls) is not cls:
            raise TypeError(f"two events are named {cls.NAME}")


def _marked(kind: type[Event], mark: object) -> Iterator[str]:
    """The names of the fields that carry a mark."""
    return (name for name, field in kind.model_fields.items() if _carries(field.annotation, field.metadata, mark))


def _carries(annotation: Any, metadata: list[Any], mark: object) -> bool:
    if mark in metadata:
        return True
    parts = getattr(annotation, "__args__", ())
    return mark in getattr(annotation, "__metadata__", ()) or any(_carries(part, [], mark) for part in parts)
