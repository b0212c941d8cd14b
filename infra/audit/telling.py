"""An event of the log in a sentence. In: a recorded event. Out: plain English by coded facts alone, never a sealed
word."""

from __future__ import annotations

import re

from domain.disclosure import DisclosureRecorded
from domain.look import LogUnsealed, RecordSeen
from domain.ports import Recorded
from projections import diary, looks

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z]*")


def told(recorded: Recorded) -> str:
    event = recorded.event
    match event:
        case RecordSeen():
            glass = ", behind a broken glass" if event.behind_glass else ""
            who = event.role.value.replace("_", " ").capitalize()
            return f"{who} looked at {looks.said(event.screen)} of patient {event.patient_id}{glass}."
        case LogUnsealed():
            return f"The log was read with its seals open: {event.events} events of {event.persons} persons."
        case DisclosureRecorded():
            means = event.means.value.replace("_", " ")
            return f"A disclosure about patient {event.patient_id} was written down, made by {means}."
    try:
        return diary.sentence(recorded)
    except KeyError:
        return _in_words(type(event).__name__)


def _in_words(name: str) -> str:
    """`WeeklyHoursPublished` → `Weekly hours published.`"""
    words = " ".join(word if word.isupper() and len(word) > 1 else word.lower() for word in _WORD.findall(name))
    return f"{words[:1].upper()}{words[1:]}."
