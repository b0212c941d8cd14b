"""The import as a whole. In: settings and a file. Out: a book with the file's history, and a report.

It writes to the log beside whatever else does. Where no server runs on the data it holds the data itself meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import uvloop

from commands.loop import Busy
from domain.ports import LogUnavailable
from domain.refusals import Refusal
from domain.time import zone
from infra.desk import desk_on
from infra.embedded.data_folder import DataFolder
from infra.embedded.servers import Servers
from infra.filling import Filler, Filling, FillingFailed, RunningServer, Workers
from infra.garbage import few_collections
from infra.installation import Installation
from infra.no_shows.checking import Check, compared
from infra.no_shows.clinics import TIME_ZONE
from infra.no_shows.history import Outcome, put_into_book
from infra.no_shows.table import Facts, Skipped, Table, read
from infra.settings import Settings
from infra.troubles import DataInUse, Trouble, WrongInput

# Gets what is being done, how far it is, and of how much if that is known.
Progress = Callable[[str, int, int | None], None]

_TOLD_ROWS: Final = 100

_log = logging.getLogger("daybook.import")


class BrokenOff(Trouble):
    """The log went out of reach. What was saved stays."""


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
    check: Check
    seconds: float
    seconds_by_part: dict[str, float] = field(default_factory=dict)

    def words(self, most: int) -> Iterator[str]:
        """For a person at a terminal; at most so many of the skipped rows."""
        new = self.imported - self.known
        yield f"{self.imported:,} of {self.rows:,} visits stand in the book of {self.organization}, {new:,} are new."
        yield f"{self.no_shows:,} no-shows, {self.messages:,} messages."
        yield f"{self.clinics:,} clinics with {self.providers:,} providers."
        yield from self.check.words()
        for reason, count in self.skipped.items():
            lines = [f"line {one.line}" for one in self.skipped_rows if one.reason == reason]
            more = " …" if count > min(len(lines), most) else ""
            yield f"Skipped, {reason.replace('_', ' ')}: {count:,} ({', '.join(lines[:most])}{more})"
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds_by_part.items())
        yield f"{self.seconds:.1f} s ({parts})"


def run(settings: Settings, file: Path, organization: str, *, batch: int, check: bool, progress: Progress) -> Report:
    """Import the file. Raises `Trouble` for a file that is not the table, and for data that another import holds."""
    started = time.monotonic()
    parts: dict[str, float] = {}
    with _timed(parts, "read"):
        table = read(file, datetime.now(zone(TIME_ZONE)).date(), lambda lines: progress("Reading", lines, None))
        progress("Reading", table.lines, table.lines)
    with few_collections(), ExitStack() as opened:
        with _timed(parts, "start"):
            place, filler = _attached(settings, opened)
        with _timed(parts, "record"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome = runner.run(_recorded(place, table, organization, batch, progress))
        facts = table.facts(frozenset(outcome.refused_appointments))
        with _timed(parts, "fill"):
            caught_up = _caught_up(filler, outcome, progress)
        with _timed(parts, "check"):
            checked = _checked(filler, organization, facts) if check and caught_up else Check(None)
        with _timed(parts, "stop"):
            opened.close()
    seconds = time.monotonic() - started
    return _report(file, table, organization, outcome, facts, checked, seconds, parts)


def _attached(settings: Settings, opened: ExitStack) -> tuple[Installation, Filler]:
    """The data for this process, held where nobody has it, else shared with who does; and who fills the read models."""
    if settings.stack == "full":
        place = Installation.full(settings, "redis_url", "clickhouse_url")
        return place, Workers(place)
    try:
        servers = opened.enter_context(Servers(settings, claim="import"))
    except DataInUse:
        folder = DataFolder.open(settings.data)
        holder = folder.holder()
        if holder is None or holder.what != "serve":
            raise
        servers = opened.enter_context(Servers(settings, redis=False))
        return Installation.embedded(settings, servers), RunningServer(folder)
    return Installation.embedded(settings, servers), opened.enter_context(Filling(servers.folder))


async def _recorded(place: Installation, table: Table, organization: str, batch: int, progress: Progress) -> Outcome:
    total = table.right
    done = 0

    def more(rows: int) -> None:
        nonlocal done
        done += rows
        progress("Recording visits", done, total)

    async with desk_on(place) as desk:
        try:
            return await put_into_book(table, desk, organization, batch=batch, progress=more)
        except Refusal as refusal:
            raise WrongInput(f"Nothing can be written for {organization!r}: {refusal.message}.") from refusal
        except (LogUnavailable, Busy) as error:
            raise BrokenOff(
                f"The log does not answer any more; {done:,} of {total:,} visits are saved. Run the same command again "
                "to go on."
            ) from error


def _caught_up(filler: Filler, outcome: Outcome, progress: Progress) -> bool:
    def reached(position: int) -> None:
        progress("Filling the read models", position, outcome.position)

    try:
        filler.catch_up(outcome.position, reached)
    except FillingFailed as failed:
        _log.warning("%s They are filled when Daybook is next started.", failed)
        return False
    return True


def _checked(filler: Filler, organization: str, facts: Facts) -> Check:
    if facts.first is None or facts.last is None:
        return Check(True)
    try:
        told: Mapping[str, Any] = filler.counted(organization, facts.first, facts.last)
    except Trouble as trouble:
        _log.warning("The read models were not compared with the file: %s", trouble)
        return Check(None)
    return compared(facts, told)


def _report(
    file: Path,
    table: Table,
    organization: str,
    outcome: Outcome,
    facts: Facts,
    checked: Check,
    seconds: float,
    parts: dict[str, float],
) -> Report:
    skipped = [*table.skipped, *outcome.refused]
    return Report(
        file=file.name,
        sha256=table.sha256,
        organization=organization,
        rows=table.lines,
        imported=facts.visits,
        known=outcome.known,
        skipped=dict(sorted(Counter(one.reason for one in skipped).items())),
        skipped_rows=sorted(skipped, key=lambda one: one.line)[:_TOLD_ROWS],
        no_shows=facts.no_shows,
        messages=facts.messages,
        clinics=outcome.clinics,
        providers=outcome.providers,
        check=checked,
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
