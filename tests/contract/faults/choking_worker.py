"""`daybook` as it would be if its diary and its facts could not take a visit's being moved or cancelled in one
organization, which CHOKES names: a worker with a fault."""

from __future__ import annotations

import os
from typing import Any

import projections.facts
from domain.appointment import AppointmentCancelled, AppointmentRescheduled
from domain.ports import Recorded
from infra.cli.main import main
from projections.diary import AppointmentDiary


def choke(recorded: Recorded) -> None:
    changed = isinstance(recorded.event, AppointmentCancelled | AppointmentRescheduled)
    if changed and recorded.organization == os.environ["CHOKES"]:
        raise ZeroDivisionError("words of somebody's")


_notes, _event_row = AppointmentDiary.notes, projections.facts.event_row


def notes(self: AppointmentDiary, recorded: Recorded) -> Any:
    choke(recorded)
    return _notes(self, recorded)


def event_row(recorded: Recorded, part: str) -> Any:
    choke(recorded)
    return _event_row(recorded, part)


AppointmentDiary.notes = notes  # type: ignore[method-assign]
projections.facts.event_row = event_row

if __name__ == "__main__":
    main()
