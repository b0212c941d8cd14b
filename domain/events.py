"""What every event is, and how personal words inside one are marked.

An event is a past-tense fact, immutable, named with its version (`AppointmentBooked.v1`). The name is what the log
keeps; the class may move. A change of shape is a new name plus an upcaster (`domain/upcasters.py`).
"""

from __future__ import annotations

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

EVENTS: dict[str, type[Event]] = {}


class Event(BaseModel):
    """The base of every event.

    `NAME` carries its version. Where fields are `Personal`, `PERSON` names the field that holds the id of the
    person whose key seals them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    NAME: ClassVar[str]
    PERSON: ClassVar[str | None] = None
    SEALED_FIELDS: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.SEALED_FIELDS = tuple(
            name for name, field in cls.model_fields.items() if _is_sealed(field.annotation, field.metadata)
        )
        if cls.SEALED_FIELDS and cls.PERSON not in cls.model_fields:
            raise TypeError(f"{cls.__name__} has personal fields but PERSON names no field of it")
        if "NAME" in cls.__dict__ and EVENTS.setdefault(cls.NAME, cls) is not cls:
            raise TypeError(f"two events are named {cls.NAME}")


def _is_sealed(annotation: Any, metadata: list[Any]) -> bool:
    if SEALED in metadata:
        return True
    parts = getattr(annotation, "__args__", ())
    return SEALED in getattr(annotation, "__metadata__", ()) or any(_is_sealed(part, []) for part in parts)
