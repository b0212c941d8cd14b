"""A real history of 110,527 appointments taken in, the read models filled and held against the file.

The table is named by NO_SHOWS, since it may not be shipped with the project. What it compares with is the goal: the
whole table in a minute.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

from infra.bench.served import folder
from infra.no_shows.run import run as take_in
from infra.settings import Settings

GOAL_SECONDS = 60.0
ROWS = 110_527


def run(size: float = 1.0) -> dict[str, Any] | None:
    """None where no table is named. At a size below one, so many rows of it."""
    named = os.environ.get("NO_SHOWS")
    if not named:
        return None
    with folder("no-shows") as data:
        table = Path(named)
        if size < 1:
            table = _cut(table, data / "some.csv", int(ROWS * size))
        settings = Settings.load(data=data / "book")
        report = take_in(settings, table, "no-shows", batch=500, check=True, progress=lambda *_: None)
    goal = GOAL_SECONDS * report.rows / ROWS
    return {
        "figure": round(report.seconds, 1),
        "unit": "seconds",
        "baseline": round(goal, 1),
        "ratio": round(report.seconds / goal, 3),
        "holds": report.seconds <= goal,
        "details": {
            "rows": report.rows,
            "imported": report.imported,
            "no_shows": report.no_shows,
            "facts_agree_with_the_file": report.check.agrees,
            "seconds_by_part": {part: round(seconds, 1) for part, seconds in report.seconds_by_part.items()},
        },
    }


def _cut(table: Path, to: Path, rows: int) -> Path:
    unpacked = gzip.decompress(table.read_bytes()) if table.suffix == ".gz" else table.read_bytes()
    to.write_bytes(b"".join(unpacked.splitlines(keepends=True)[: rows + 1]))
    return to
