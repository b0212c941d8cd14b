"""Plainly invented tables, and a desk over a real log."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date
from pathlib import Path

import pytest

from commands.loop import Desk
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.no_shows.table import COLUMNS, Table, read
from tests.conftest import Database
from tests.needs import left_out

TODAY = date(2026, 3, 1)
REAL = Path(__file__).parents[3].parent / "shared" / "data" / "no-shows.csv.gz"

needs_the_real_table = pytest.mark.usefixtures("the_real_table")


@pytest.fixture
def the_real_table() -> None:
    """It may not be shipped with the project, so it lies beside it."""
    if not REAL.exists():
        left_out("the no-shows table in shared/data, beside this project,")


# A row as the file has it; the tests change one column at a time.
PLAIN = {
    "PatientId": "1",
    "AppointmentID": "100",
    "Gender": "F",
    "ScheduledDay": "2016-05-02T08:36:51Z",
    "AppointmentDay": "2016-05-04T00:00:00Z",
    "Age": "40",
    "Neighbourhood": "INVENTED HILL",
    "Scholarship": "0",
    "Hipertension": "0",
    "Diabetes": "0",
    "Alcoholism": "0",
    "Handcap": "0",
    "SMS_received": "0",
    "No-show": "No",
}


def line(**changes: str) -> str:
    """One line of a table; `No_show` stands for the column `No-show`."""
    row = PLAIN | {name.replace("No_show", "No-show"): value for name, value in changes.items()}
    return ",".join(row[name] for name in COLUMNS)


Write = Callable[[Sequence[str]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes lines below the right header."""

    def writing(lines: Sequence[str]) -> Path:
        path = tmp_path / "table.csv"
        path.write_text("\n".join([",".join(COLUMNS), *lines, ""]), "utf-8")
        return path

    return writing


def invented(visits: int, *, clinics: int = 3, days: int = 4) -> list[str]:
    """Lines of a table in which patients come several times a day, walk in late, miss visits and get messages."""
    lines = []
    for number in range(visits):
        day = 2 + number % days
        walk_in = number % 3 == 0
        booked = f"2016-05-{day:02d}" if walk_in else f"2016-04-{1 + number % 28:02d}"
        lines.append(
            line(
                PatientId=f"P{number // 2 % 40 * clinics + number % clinics}",
                AppointmentID=str(1000 + number),
                ScheduledDay=f"{booked}T{6 + number % 15:02d}:{number % 60:02d}:{number % 59:02d}Z",
                AppointmentDay=f"2016-05-{day:02d}T00:00:00Z",
                Age=str(number % 100),
                Neighbourhood=f"INVENTED {number % clinics}",
                SMS_received="0" if walk_in else str(number % 2),
                No_show="Yes" if number % 5 == 0 else "No",
            )
        )
    return lines


def first_of_the_real(rows: int, path: Path) -> Table:
    """The head of the real table, where it is at hand."""
    with gzip.open(REAL, "rt", encoding="utf-8") as file:
        path.write_text("".join(text for text, _ in zip(file, range(rows + 1), strict=False)), "utf-8")
    return read(path, TODAY)


@pytest.fixture
async def log(database: Database, tmp_path: Path) -> AsyncIterator[PostgresEventLog]:
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(tmp_path / "master.key"))
    async with PostgresEventLog(database.app, keyring) as opened:
        yield opened
    await keyring.close()


@pytest.fixture
def desk(log: PostgresEventLog) -> Desk:
    return Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())
