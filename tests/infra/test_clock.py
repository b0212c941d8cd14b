"""The database's clock, as seen from here."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from infra.clock import DatabaseClock


def read(clock: DatabaseClock, ahead: float, took: float) -> None:
    """A reading of a database that is `ahead` seconds ahead, in an exchange of `took` seconds."""
    after = time.monotonic()
    clock.observe(datetime.now(UTC) + timedelta(seconds=ahead - took / 2), after - took, after)


def ahead(clock: DatabaseClock) -> float:
    return (clock.now() - datetime.now(UTC)).total_seconds()


def test_before_a_reading_it_is_this_machines_clock() -> None:
    assert abs(ahead(DatabaseClock())) < 0.1


def test_it_follows_the_database_and_prefers_sharp_readings() -> None:
    clock = DatabaseClock()
    read(clock, ahead=100, took=0.02)
    assert abs(ahead(clock) - 100) < 0.05
    assert 0.01 <= clock.doubt < 0.02
    read(clock, ahead=100.3, took=1.0)
    assert abs(ahead(clock) - 100) < 0.05, "a vague reading that contradicts nothing changes nothing"
    read(clock, ahead=100.005, took=0.001)
    assert abs(ahead(clock) - 100.005) < 0.005


def test_a_clock_that_was_set_is_followed_even_by_a_vague_reading() -> None:
    clock = DatabaseClock()
    read(clock, ahead=0, took=0.001)
    read(clock, ahead=-3600, took=1.0)
    assert abs(ahead(clock) + 3600) < 1
