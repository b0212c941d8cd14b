"""Dead letters: events that a read model can't take, told in the open until someone has seen to them.

In: what went wrong, where. Out: letters that say it without a word of what the event holds. While a letter lies there,
its stream stands still in that model and all others go on; a retry applies the whole stream again from the log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol, Self

# As the log has it, without the organization.
_LONGEST_NAME: Final = 512


def from_json(data: bytes) -> Any:
    """What the bytes hold. Raises `ValueError`, and nothing else, for what is no JSON or too deep."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("too deep") from error


class Which(NamedTuple):
    """Which event it is, by what stands beside its payload."""

    position: int
    organization: str
    stream: str
    version: int
    name: str
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that this version of the programme can't read; `which` is None for what is no row at all."""

    error: str
    which: Which | None = None


@dataclass(frozen=True, slots=True)
class Letter:
    """`where` is `STREAM|POSITION` with the stream's full name, or `TOPIC-PARTITION-OFFSET` for what is no event of the
    log; that one has no organization, and 0 for its numbers. `error` names a class, `at` is an instant in RFC 3339."""

    model: str
    where: str
    error: str
    at: str
    organization: str = ""
    stream: str = ""
    position: int = 0
    version: int = 0
    name: str = ""

    @property
    def key(self) -> str:
        return f"{self.model}|{self.where}"

    @property
    def is_event(self) -> bool:
        return self.position > 0

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises `ValueError` for what is no letter."""
        known: Any = from_json(data)
        if not isinstance(known, dict):
            raise ValueError("not a letter")
        try:
            return cls(**{name: value for name, value in known.items() if name in cls.__slots__})
        except TypeError as error:
            raise ValueError("not a letter") from error


def letter_of(model: str, which: Which, error: str, at: datetime) -> Letter:
    return Letter(
        model=model,
        where=where(which.organization, which.stream, which.position),
        error=error,
        at=at.isoformat(),
        organization=which.organization,
        stream=which.stream,
        position=which.position,
        version=which.version,
        name=which.name,
    )


def where(organization: str, stream: str, position: int) -> str:
    return f"{organization}/{stream}|{position}"


class Retry(NamedTuple):
    """Asks the worker that fills a model to apply a stream again."""

    model: str
    organization: str
    stream: str

    def to_json(self) -> bytes:
        return json.dumps(self._asdict(), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises `ValueError` for what is none."""
        known: Any = from_json(data)
        if not isinstance(known, dict) or known.keys() != set(cls._fields):
            raise ValueError("not a retry")
        if not all(isinstance(value, str) for value in known.values()):
            raise ValueError("not a retry")
        retry = cls(**known)
        # No stream of the log is called so, and asking for it fails each time: it would stand in front of the model.
        full = f"{retry.organization}/{retry.stream}"
        full.encode()
        if "\0" in full or len(retry.stream) > _LONGEST_NAME:
            raise ValueError("not a stream's name")
        return retry


class DeadLetters(Protocol):
    """Where letters lie. Every method raises when that can't be reached."""

    async def write(self, letters: Sequence[Letter]) -> None:
        """Durable when it returns. One with the same key takes the place of the one before."""

    async def settle(self, keys: Sequence[str]) -> None:
        """Take letters away, whether they are there or not."""


class LetterBox(Protocol):
    """Where letters are looked through."""

    async def all(self) -> Mapping[str, Letter]:
        """Every letter by its key, in order of arrival."""

    async def settle(self, keys: Sequence[str]) -> None: ...

    async def ask(self, retries: Sequence[Retry]) -> None:
        """Have streams applied again."""
