"""Parameters that mean time. In: text of a query. Out: days, instants and places in the log, checked."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Any, Final

from fastapi import Query
from pydantic import BeforeValidator, PlainValidator, TypeAdapter, WithJsonSchema

from domain.time import FIRST_YEAR, LAST_YEAR, Instant

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d([.]\d+)?)?([Zz]|[+-]\d\d:\d\d)?")
_POSITION: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_INSTANTS: Final = TypeAdapter[datetime](Instant)

_A_DAY: Final = {"type": "string", "format": "date"}
_AN_INSTANT: Final = {"type": "string", "format": "date-time"}


def _instant(text: Any) -> datetime:
    # A plus that was not escaped reaches us as a space.
    told = text.replace(" ", "+") if isinstance(text, str) else ""
    if not _RFC_3339.fullmatch(told):
        raise ValueError("an instant is RFC 3339 with an offset, such as 2027-03-01T10:00:00Z")
    return _INSTANTS.validate_python(told)


def _day(text: Any) -> date:
    if not isinstance(text, str) or not _DAY.fullmatch(text):
        raise ValueError("a day is written as 2027-03-01")
    day = date.fromisoformat(text)
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(f"a day lies in the years {FIRST_YEAR} to {LAST_YEAR}")
    return day


def _day_or_instant(text: Any) -> date | datetime:
    return _day(text) if isinstance(text, str) and _DAY.fullmatch(text) else _instant(text)


def _moment(text: Any) -> datetime | str:
    return text if isinstance(text, str) and _POSITION.fullmatch(text) else _instant(text)


Day = Annotated[date, BeforeValidator(_day)]
When = Annotated[datetime, PlainValidator(_instant), WithJsonSchema(_AN_INSTANT)]
DayOrInstant = Annotated[
    date | datetime, PlainValidator(_day_or_instant), WithJsonSchema({"anyOf": [_A_DAY, _AN_INSTANT]})
]
Moment = Annotated[
    datetime | str,
    PlainValidator(_moment),
    WithJsonSchema({"anyOf": [_AN_INSTANT, {"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"}]}),
]

AsOf = Annotated[
    Moment | None,
    Query(
        description="Answer as the book stood then: an instant (by when the log took it), or a `position` that a "
        "command answered with."
    ),
]
Limit = Annotated[int, Query(ge=1, le=200, description="How many to answer with at most.")]
Cursor = Annotated[str | None, Query(max_length=2048, description="`next` of the page before, to go on after it.")]
