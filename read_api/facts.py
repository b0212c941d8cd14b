"""Figures about visits: how many, how many missed. Counted in groups; nobody is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from infra.http.problems import InvalidParameter, Refused
from projections.facts import LEAD_BANDS, Count, Facts
from read_api.asking import Asked
from read_api.describing import answers
from read_api.parameters import Day

router = APIRouter(prefix="/facts", tags=["figures"])

_WEEKDAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

First = Annotated[Day, Query(description="the first local day of visits that are counted")]
Last = Annotated[Day, Query(description="the last one, included")]


class NoFigures(Refused):
    """This installation keeps no figures."""

    code = "no_figures"
    status = 404


class Visits(BaseModel):
    """`visits` were not called off; `with_message` of them had a message sent about them. `label` names the group."""

    label: str
    visits: int
    completed: int
    no_shows: int
    with_message: int


class VisitFigures(BaseModel):
    first: date
    last: date
    groups: list[Visits]


class StatusFigures(BaseModel):
    first: date
    last: date
    appointments: dict[str, int] = Field(description="how many of each status, by the visit's local day")


@router.get("/weekdays", response_model=VisitFigures, **answers(404))
async def count_by_weekday(asked: Asked, first: First, last: Last) -> Response:
    """Visits and no-shows by the local weekday of the visit, between two local days."""
    facts, position = await _facts(asked, first, last)
    counts = await facts.by_weekday(asked.organization, first, last)
    return asked.answer(_figures(first, last, counts, dict(enumerate(_WEEKDAYS, 1))), position)


@router.get("/lead-times", response_model=VisitFigures, **answers(404))
async def count_by_lead_time(asked: Asked, first: First, last: Last) -> Response:
    """Visits and no-shows by how many days before the visit it was booked, between two local days of visits."""
    facts, position = await _facts(asked, first, last)
    counts = await facts.by_lead_time(asked.organization, first, last)
    return asked.answer(_figures(first, last, counts, {low: _band(low, high) for low, high in LEAD_BANDS}), position)


@router.get("/hours", response_model=VisitFigures, **answers(404))
async def count_by_hour(asked: Asked, first: First, last: Last) -> Response:
    """Visits and no-shows by the local hour in which the visit starts, between two local days."""
    facts, position = await _facts(asked, first, last)
    counts = await facts.by_local_hour(asked.organization, first, last)
    return asked.answer(_figures(first, last, counts, {hour: f"{hour:02d}:00" for hour in range(24)}), position)


@router.get("/statuses", response_model=StatusFigures, **answers(404))
async def count_by_status(asked: Asked, first: First, last: Last) -> Response:
    """Appointments by what became of them, between two local days of visits."""
    facts, position = await _facts(asked, first, last)
    counts = await facts.by_status(asked.organization, first, last)
    return asked.answer(StatusFigures(first=first, last=last, appointments=dict(counts)), position)


async def _facts(asked: Asked, first: date, last: date) -> tuple[Facts, int]:
    asked.may("read_figures")
    if last < first:
        raise InvalidParameter("`last` is on or after `first`")
    facts = asked.library.facts
    if facts is None:
        raise NoFigures("This installation keeps no figures.")
    return facts, await asked.caught_up(facts)


def _figures(first: date, last: date, counts: Sequence[Count], labels: Mapping[int, str]) -> VisitFigures:
    """Every group in order, those without a visit too."""
    by_key = {int(count.key): count for count in counts}
    groups = [
        Visits(
            label=label,
            visits=count.visits,
            completed=count.completed,
            no_shows=count.no_shows,
            with_message=count.with_message,
        )
        for key, label in labels.items()
        for count in (by_key.get(key, Count(key, 0, 0, 0, 0)),)
    ]
    return VisitFigures(first=first, last=last, groups=groups)


def _band(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} days and more"
    if low == high:
        return "same day" if low == 0 else f"{low} days"
    return f"{low} to {high} days"
