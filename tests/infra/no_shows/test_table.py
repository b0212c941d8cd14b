"""The no-shows table is read row by row; what is not plainly right is told and left out."""

from __future__ import annotations

import gzip
from collections import Counter
from datetime import date, datetime
from pathlib import Path

import pytest

from infra.no_shows.table import COLUMNS, Skipped, read
from infra.troubles import WrongInput
from tests.infra.no_shows.conftest import REAL, TODAY, Write, line, needs_the_real_table


def test_a_row_is_read_as_it_stands(write: Write) -> None:
    table = read(write([line(PatientId="9377952927E-5", SMS_received="1", No_show="Yes")]), TODAY)
    (row,) = table.neighbourhoods["INVENTED HILL"]
    assert (row.line, row.appointment, row.patient) == (2, "100", "9377952927E-5")
    assert (row.scheduled, row.day) == (datetime(2016, 5, 2, 8, 36, 51), date(2016, 5, 4))
    assert (row.message_sent, row.came, row.lead_days) == (True, False, 2)
    assert row.about_the_patient() == {
        "gender": "F",
        "age": "40",
        "neighbourhood": "INVENTED HILL",
        "scholarship": "0",
        "hipertension": "0",
        "diabetes": "0",
        "alcoholism": "0",
        "handcap": "0",
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (line(Age="-1"), "negative_age"),
        (line(ScheduledDay="2016-05-05T08:00:00Z"), "scheduled_after_day"),
        (line() + ",0", "wrong_columns"),
        (line().rpartition(",")[0], "wrong_columns"),
        (line(AppointmentID=""), "missing_value"),
        (line(Neighbourhood=" "), "missing_value"),
        (line(Neighbourhood="N" * 201), "too_long"),
        (line(ScheduledDay="2016-02-30T08:00:00Z"), "bad_date"),
        (line(ScheduledDay="2016-05-02T08:36:51"), "bad_date"),
        (line(ScheduledDay="2016-05-02T08:36:51+05:00"), "bad_date"),
        (line(ScheduledDay="0001-01-01T00:00:00Z"), "bad_date"),
        (line(AppointmentDay="2016-05-04T09:00:00Z"), "bad_date"),
        (line(AppointmentDay="yesterday"), "bad_date"),
        (line(Age="forty"), "bad_number"),
        (line(Age="131"), "bad_number"),
        (line(Age="9" * 150), "bad_number"),
        (line(Age="4_0"), "bad_number"),
        (line(Age=" 40"), "bad_number"),
        (line(Diabetes="2"), "bad_number"),
        (line(Handcap="-1"), "bad_number"),
        (line(No_show="Maybe"), "unknown_outcome"),
        (line(AppointmentDay="2026-03-01T00:00:00Z"), "in_the_future"),
        (line(Neighbourhood="A\x00B"), "not_text"),
        (line(AppointmentID="99"), "duplicate_appointment"),
    ],
)
def test_a_faulty_row_is_told_with_its_line_and_left_out(write: Write, text: str, reason: str) -> None:
    table = read(write([line(AppointmentID="99"), text, line(AppointmentID="101")]), TODAY)
    assert table.skipped == [Skipped(3, reason)]
    assert (table.lines, table.right) == (3, 2)


def test_bytes_that_are_no_text_fault_their_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    rows = [",".join(COLUMNS), line(), line(AppointmentID="7", Neighbourhood="?"), line(AppointmentID="8")]
    path.write_bytes("\n".join(rows).encode().replace(b"?", b"\xff\xfe"))
    table = read(path, TODAY)
    assert table.skipped == [Skipped(3, "not_text")]
    assert table.right == 2


def test_lines_count_as_an_editor_counts_them(write: Write) -> None:
    table = read(write([line(Neighbourhood='"TWO\nLINES"'), "", line(AppointmentID="7", Age="-1")]), TODAY)
    assert table.skipped == [Skipped(5, "negative_age")]


def test_a_packed_file_is_the_same_table_whatever_its_name(write: Write, tmp_path: Path) -> None:
    plain = write([line()])
    packed = tmp_path / "renamed.csv"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read(packed, TODAY) == read(plain, TODAY)


def test_columns_may_stand_in_another_order_and_after_a_byte_order_mark(write: Write, tmp_path: Path) -> None:
    turned = tmp_path / "turned.csv"
    text = write([line()]).read_text("utf-8")
    turned.write_text(
        "\n".join(",".join(reversed(part.split(","))) for part in text.splitlines()), encoding="utf-8-sig"
    )
    assert read(turned, TODAY).right == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it lacks PatientId"),
        (b"a,b,c\n1,2,3\n", "3 column\\(s\\) of another name"),
        ((",".join(COLUMNS[1:]) + "\n").encode(), "it lacks PatientId"),
        ((",".join([*COLUMNS, "Extra"]) + "\n").encode(), "1 column\\(s\\) of another name"),
        ((",".join([*COLUMNS, "Age"]) + "\n").encode(), "a column stands twice"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "is not the table"),
        ((",".join(COLUMNS) + '\n"open').encode(), "line 2: not CSV"),
        (gzip.compress((",".join(COLUMNS) + "\n").encode() * 50)[:-9], "breaks off or is damaged"),
    ],
)
def test_another_file_is_refused_in_words(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(WrongInput, match=words):
        read(path, TODAY)


def test_a_missing_file_and_a_folder_are_refused_in_words(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(WrongInput, match="can't be read"):
            read(path, TODAY)


def test_a_table_without_rows_is_empty_and_no_fault(write: Write) -> None:
    table = read(write([]), TODAY)
    assert (table.lines, table.right, table.skipped) == (0, 0, [])


@needs_the_real_table
def test_the_real_table_has_the_facts_that_were_counted_by_hand() -> None:
    table = read(REAL, TODAY)
    facts = table.facts()
    assert table.sha256 == "9132d3e7d0246617df9041d3764f20ad6f08e7b0d9f0997fa254fc5e52eda27d"
    assert table.lines == 110_527
    assert Counter(one.reason for one in table.skipped) == {"negative_age": 1, "scheduled_after_day": 5}
    assert [(one.line, one.reason) for one in table.skipped][:2] == [
        (27035, "scheduled_after_day"),
        (55228, "scheduled_after_day"),
    ]
    assert len(table.neighbourhoods) == 81
    # All five that were scheduled after their day are told as missed; the child of age -1 came.
    assert (facts.visits, facts.no_shows) == (110_527 - 6, 22_319 - 5)
    assert facts.by_lead[0][0] == 38_563 - 1
    assert facts.by_weekday[4] == [19_019, 4_037]
    assert facts.by_weekday[5] == [39, 9]
