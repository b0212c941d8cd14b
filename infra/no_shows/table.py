"""Reads the "medical appointment no-shows" table. In: a file, `.csv` or `.csv.gz`. Out: rows, faults, facts.

A row that is not plainly right is left out and told with its line and reason; nothing is repaired. What the columns
mean, and what the table leaves open, is in docs/decisions/0030-no-shows-table.md.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from sys import intern
from typing import IO, Any, Final

from infra.troubles import WrongInput

COLUMNS: Final = (
    "PatientId",
    "AppointmentID",
    "Gender",
    "ScheduledDay",
    "AppointmentDay",
    "Age",
    "Neighbourhood",
    "Scholarship",
    "Hipertension",
    "Diabetes",
    "Alcoholism",
    "Handcap",
    "SMS_received",
    "No-show",
)
_FLAGS: Final = ("Scholarship", "Hipertension", "Diabetes", "Alcoholism", "SMS_received")
_BACKGROUND: Final = (
    "Gender",
    "Age",
    "Neighbourhood",
    "Scholarship",
    "Hipertension",
    "Diabetes",
    "Alcoholism",
    "Handcap",
)
_CAME: Final = {"No": True, "Yes": False}
_LONGEST_TEXT: Final = 200
_OLDEST: Final = 130
_FIRST_YEAR: Final = 1900
_GZIP: Final = b"\x1f\x8b"
_WHOLE: Final = re.compile(r"-?[0-9]{1,9}")


class Fault(StrEnum):
    """Why a row is left out."""

    WRONG_COLUMNS = "wrong_columns"
    NOT_TEXT = "not_text"
    MISSING_VALUE = "missing_value"
    TOO_LONG = "too_long"
    BAD_DATE = "bad_date"
    BAD_NUMBER = "bad_number"
    NEGATIVE_AGE = "negative_age"
    UNKNOWN_OUTCOME = "unknown_outcome"
    SCHEDULED_AFTER_DAY = "scheduled_after_day"
    IN_THE_FUTURE = "in_the_future"
    DUPLICATE_APPOINTMENT = "duplicate_appointment"


@dataclass(frozen=True, slots=True)
class Row:
    """One visit as the table tells it. `scheduled` is wall time at the clinic, without a zone; `background` holds what
    the table says of the patient."""

    line: int
    appointment: str
    patient: str
    scheduled: datetime
    day: date
    neighbourhood: str
    message_sent: bool
    came: bool
    background: tuple[str, ...]

    @property
    def lead_days(self) -> int:
        """Local days from booking to the visit; 0 is a walk-in."""
        return (self.day - self.scheduled.date()).days

    def about_the_patient(self) -> dict[str, str]:
        return {name.lower(): value for name, value in zip(_BACKGROUND, self.background, strict=True)}


@dataclass(frozen=True, slots=True)
class Skipped:
    line: int
    reason: str


@dataclass(slots=True)
class Facts:
    """Counts of the rows that are right, and their first and last day. Keys of `by_weekday` are 0 (Monday) to 6, of
    `by_lead` days; each holds [visits, no-shows]."""

    visits: int = 0
    no_shows: int = 0
    messages: int = 0
    first: date | None = None
    last: date | None = None
    by_weekday: dict[int, list[int]] = field(default_factory=dict)
    by_lead: dict[int, list[int]] = field(default_factory=dict)

    def count(self, row: Row) -> None:
        missed = not row.came
        self.first = row.day if self.first is None else min(self.first, row.day)
        self.last = row.day if self.last is None else max(self.last, row.day)
        self.visits += 1
        self.no_shows += missed
        self.messages += row.message_sent
        for counts, key in ((self.by_weekday, row.day.weekday()), (self.by_lead, row.lead_days)):
            both = counts.setdefault(key, [0, 0])
            both[0] += 1
            both[1] += missed


@dataclass(slots=True)
class Table:
    """A whole file: rows that are right by neighbourhood, in the file's order, and the lines that are left out.

    `sha256` is of the text, so that a file and its `.gz` are the same table."""

    sha256: str = ""
    lines: int = 0
    neighbourhoods: dict[str, list[Row]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def right(self) -> int:
        return sum(map(len, self.neighbourhoods.values()))

    def facts(self, but: frozenset[str] = frozenset()) -> Facts:
        """What the rows say, but for the appointments named."""
        facts = Facts()
        for rows in self.neighbourhoods.values():
            for row in rows:
                if row.appointment not in but:
                    facts.count(row)
        return facts


def read(path: Path, today: date, progress: Callable[[int], None] = lambda lines: None) -> Table:
    """Read the whole file before anything is done with it. `today` is the clinics' local day; a visit after it can't
    have ended. Raises `WrongInput` for what is not this table, and for a file that breaks off."""
    table = Table()
    seen: set[str] = set()
    digest = hashlib.sha256()
    for line, record in _records(path, digest):
        table.lines += 1
        row = _row(line, record, today)
        if isinstance(row, Row) and row.appointment in seen:
            row = Fault.DUPLICATE_APPOINTMENT
        if isinstance(row, Row):
            seen.add(row.appointment)
            table.neighbourhoods.setdefault(row.neighbourhood, []).append(row)
        else:
            table.skipped.append(Skipped(line, row.value))
        if table.lines % 1000 == 0:
            progress(table.lines)
    table.sha256 = digest.hexdigest()
    progress(table.lines)
    return table


def _records(path: Path, digest: Any) -> Iterator[tuple[int, list[str] | Mapping[str, str] | None]]:
    """Line number and record: columns by name, a list where their number is wrong, None where it is not UTF-8 text."""
    with _opened(path) as file:
        reader = csv.reader(_hashed(file, digest), strict=True)
        try:
            header = [name.strip() for name in next(reader, [])]
            _check_header(path, header)
            width = len(header)
            start = reader.line_num + 1
            for fields in reader:
                line, start = start, reader.line_num + 1
                if len(fields) != width:
                    # An empty line at the end is how many programs write a file.
                    if fields:
                        yield line, fields
                elif any(map(_unreadable, fields)):
                    yield line, None
                else:
                    yield line, dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise WrongInput(f"{path.name}, line {reader.line_num}: not CSV ({error}).") from None


def _check_header(path: Path, header: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in header]
    strange = [name for name in header if name not in COLUMNS]
    if missing or strange or len(header) != len(COLUMNS):
        said = [f"it lacks {', '.join(missing)}"] if missing else []
        said += [f"it has {len(strange)} column(s) of another name"] if strange else []
        said += ["a column stands twice"] if not said else []
        raise WrongInput(
            f"{path.name} is not the table of medical appointment no-shows: {'; '.join(said)}. "
            f"Its first line should be {','.join(COLUMNS)}"
        )


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as plain:
            # By content, since a download may have lost its ending.
            packed = plain.read(2) == _GZIP
            plain.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=plain) as file:
                    yield io.BufferedReader(file, 1 << 16)
            else:
                yield plain
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise WrongInput(f"{path.name} breaks off or is damaged ({error}). Fetch it again.") from None
    except OSError as error:
        raise WrongInput(f"{path} can't be read: {error.strerror or type(error).__name__}.") from None


def _hashed(file: IO[bytes], digest: Any) -> Iterator[str]:
    first = True
    for data in file:
        digest.update(data)
        text = data.decode("utf-8-sig" if first else "utf-8", "surrogateescape")
        first = False
        yield text


def _unreadable(text: str) -> bool:
    if text.isascii():
        return "\x00" in text
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _row(line: int, record: list[str] | Mapping[str, str] | None, today: date) -> Row | Fault:
    if record is None:
        return Fault.NOT_TEXT
    if isinstance(record, list):
        return Fault.WRONG_COLUMNS
    if not all(map(str.strip, record.values())):
        return Fault.MISSING_VALUE
    if max(map(len, record.values())) > _LONGEST_TEXT:
        return Fault.TOO_LONG
    scheduled, day = _scheduled(record["ScheduledDay"]), _day(record["AppointmentDay"])
    if scheduled is None or day is None:
        return Fault.BAD_DATE
    age, handicap = _whole(record["Age"]), _whole(record["Handcap"])
    if age is None or age > _OLDEST or handicap is None or handicap < 0:
        return Fault.BAD_NUMBER
    if any(record[name] not in ("0", "1") for name in _FLAGS):
        return Fault.BAD_NUMBER
    if age < 0:
        return Fault.NEGATIVE_AGE
    came = _CAME.get(record["No-show"])
    if came is None:
        return Fault.UNKNOWN_OUTCOME
    if day < scheduled.date():
        return Fault.SCHEDULED_AFTER_DAY
    if day >= today:
        return Fault.IN_THE_FUTURE
    return Row(
        line,
        record["AppointmentID"].strip(),
        record["PatientId"].strip(),
        scheduled,
        day,
        intern(record["Neighbourhood"].strip()),
        record["SMS_received"] == "1",
        came,
        tuple(intern(record[name].strip()) for name in _BACKGROUND),
    )


def _scheduled(text: str) -> datetime | None:
    """The wall time that stands before the Z. An offset of another kind is not of this table."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        return None
    if read.tzinfo is not UTC or read.year < _FIRST_YEAR:
        return None
    return read.replace(tzinfo=None)


def _day(text: str) -> date | None:
    midnight = _scheduled(text)
    if midnight is None or midnight.time() != datetime.min.time():
        return None
    return midnight.date()


def _whole(text: str) -> int | None:
    return int(text) if _WHOLE.fullmatch(text) else None
