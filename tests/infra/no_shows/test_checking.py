"""What the read models count is held against what the file says."""

from __future__ import annotations

from copy import deepcopy

from infra.no_shows.checking import Check, compared
from infra.no_shows.table import Facts, read
from tests.infra.no_shows.conftest import TODAY, Write, line

TOLD = {
    "by_weekday": [[1, 1, 0], [3, 3, 2]],
    "by_lead": [[0, 1, 0], [1, 2, 2], [31, 1, 0]],
    "messages": 2,
}


def facts(write: Write) -> Facts:
    lines = [
        line(AppointmentID="1", ScheduledDay="2016-05-02T08:00:00Z", AppointmentDay="2016-05-02T00:00:00Z"),
        line(AppointmentID="2", No_show="Yes"),
        line(AppointmentID="3", No_show="Yes", SMS_received="1", ScheduledDay="2016-05-03T08:00:00Z"),
        line(AppointmentID="4", SMS_received="1", ScheduledDay="2015-12-03T08:00:00Z"),
        line(AppointmentID="5", Age="-1"),
    ]
    return read(write(lines), TODAY).facts()


def test_equal_counts_agree(write: Write) -> None:
    assert compared(facts(write), TOLD) == Check(True, 11, [])


def test_each_difference_is_told(write: Write) -> None:
    told = deepcopy(TOLD)
    told["by_weekday"][1][2] = 1  # type: ignore[index]
    told["by_lead"].pop()  # type: ignore[attr-defined]
    told["by_lead"].append([8, 1, 0])  # type: ignore[attr-defined]
    told["messages"] = 3
    check = compared(facts(write), told)
    assert check.agrees is False
    assert check.differences == [
        {"of": "messages sent", "file": 2, "book": 3},
        {"of": "no-shows, weekday 3", "file": 2, "book": 1},
        {"of": "visits, lead time from day 31", "file": 1, "book": 0},
        {"of": "visits, lead time from day 8", "file": 0, "book": 1},
    ]


def test_rows_that_are_left_out_are_not_counted(write: Write) -> None:
    table = read(write([line(AppointmentID="1"), line(AppointmentID="2", No_show="Yes")]), TODAY)
    assert (table.facts().visits, table.facts().no_shows) == (2, 1)
    assert (table.facts(frozenset({"2"})).visits, table.facts(frozenset({"2"})).no_shows) == (1, 0)
