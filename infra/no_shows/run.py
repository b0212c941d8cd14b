"""The import as a whole. In: settings and a file. Out: a book with the file's history, and a report.

It writes to the log beside whatever else does. Where no server runs on the data it holds the data itself meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import uvloop

from domain.time import zone
from infra.desk import desk_on
from infra.embedded.data_folder import DataFolder
from infra.embedded.servers import Servers
from infra.no_shows.clinics import TIME_ZONE
from infra.no_shows.history import Outcome, put_into_book
from infra.no_shows.table import Skipped, Table, read
from infra.settings import Settings
from infra.troubles import DataInUse

# Gets what is being done, how far it is, and of how much if that is known.
Progress = Callable[[str, int, int | None], None]

_TOLD_ROWS: Final = 100


@dataclass(frozen=True, slots=True)
class Report:
    """What an import came to. Counts are of visits: `imported` stand in the book now, `known` of them did before.
    `seconds_by_part` adds up to `seconds`."""

    file: str
    sha256: str
    organization: str
    rows: int
    imported: int
    known: int
    skipped: dict[str, int]
    skipped_rows: list[Skipped]
    no_shows: int
    messages: int
    clinics: int
    providers: int
    seconds: float
    seconds_by_part: dict[str, float] = field(default_factory=dict)

    def words(self, most: int) -> Iterator[str]:
        """For a person at a terminal; at most so many of the skipped rows."""
        new = self.imported - self.known
        yield f"{self.imported:,} of {self.rows:,} visits stand in the book of {self.organization}, {new:,} are new."
        yield f"{self.no_shows:,} no-shows, {self.messages:,} messages."
        yield f"{self.clinics:,} clinics with {self.providers:,} providers."
        for reason, count in self.skipped.items():
            lines = [f"line {one.line}" for one in self.skipped_rows if one.reason == reason]
            more = " …" if count > min(len(lines), most) else ""
            yield f"Skipped, {reason.replace('_', ' ')}: {count:,} ({', '.join(lines[:most])}{more})"
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds_by_part.items())
        yield f"{self.seconds:.1f} s ({parts})"


def run(settings: Settings, file: Path, organization: str, *, batch: int, progress: Progress) -> Report:
    """Import the file. Raises `Trouble` for a file that is not the table, and for data that another import holds."""
    started = time.monotonic()
    parts: dict[str, float] = {}
    with _timed(parts, "read"):
        table = read(file, datetime.now(zone(TIME_ZONE)).date(), lambda lines: progress("Reading", lines, None))
        progress("Reading", table.lines, table.lines)
    with _few_collections():
        with _timed(parts, "start"):
            servers = _attached(settings)
        try:
            with _timed(parts, "record"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                outcome = runner.run(_recorded(servers, table, organization, batch, progress))
        finally:
            with _timed(parts, "stop"):
                servers.close()
    return _report(file, table, organization, outcome, time.monotonic() - started, parts)


def _attached(settings: Settings) -> Servers:
    """The data for this process: held where nobody has it, shared with a server that runs on it."""
    try:
        return Servers(settings, claim="import").__enter__()
    except DataInUse:
        holder = DataFolder.open(settings.data).holder()
        if holder is None or holder.what != "serve":
            raise
    return Servers(settings, redis=False).__enter__()


async def _recorded(servers: Servers, table: Table, organization: str, batch: int, progress: Progress) -> Outcome:
    total = table.right
    done = 0

    def more(rows: int) -> None:
        nonlocal done
        done += rows
        progress("Recording visits", done, total)

    async with desk_on(servers.folder, servers.postgres) as desk:
        return await put_into_book(table, desk, organization, batch=batch, progress=more)


def _report(
    file: Path, table: Table, organization: str, outcome: Outcome, seconds: float, parts: dict[str, float]
) -> Report:
    facts = table.facts(frozenset(outcome.refused_appointments))
    table.skipped += outcome.refused
    return Report(
        file=file.name,
        sha256=table.sha256,
        organization=organization,
        rows=table.lines,
        imported=facts.visits,
        known=outcome.known,
        skipped=table.skipped_by_reason(),
        skipped_rows=sorted(table.skipped, key=lambda one: one.line)[:_TOLD_ROWS],
        no_shows=facts.no_shows,
        messages=facts.messages,
        clinics=outcome.clinics,
        providers=outcome.providers,
        seconds=round(seconds, 3),
        seconds_by_part={name: round(took, 3) for name, took in parts.items()},
    )


@contextmanager
def _timed(parts: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        parts[name] = time.monotonic() - started


@contextmanager
def _few_collections() -> Iterator[None]:
    """The cycle collector would walk a hundred thousand rows again and again, a third of the run, to find nothing."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
