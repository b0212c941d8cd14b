"""Folds what the log tells of a stream. In: its events, in order. Out: the state, or None where there are none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from domain.events import Event
from domain.ports import Recorded

S = TypeVar("S")


def folded(evolve: Callable[[S | None, Event], S], told: Iterable[Recorded]) -> S | None:
    state: S | None = None
    for recorded in told:
        state = evolve(state, recorded.event)
    return state
