"""What kind of statement a request holds, and where an INSERT's data begin."""

from __future__ import annotations

import pytest

from infra.local.statements import read


@pytest.mark.parametrize(
    ("sql", "keyword", "form"),
    [
        (b"SELECT 1", "SELECT", None),
        (b"select 1\n FORMAT Native", "SELECT", "Native"),
        (b"SELECT 1 FORMAT JSON;", "SELECT", "JSON"),
        (b"SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "SELECT", "JSON"),
        (b"SELECT format FROM visits", "SELECT", None),
        (b"SELECT kind AS format FORMAT TSV", "SELECT", "TSV"),
        (b"SELECT 'x FORMAT JSON'", "SELECT", None),
        (b"SELECT (SELECT 1) -- FORMAT JSON", "SELECT", None),
        (b"/* who */ WITH 1 AS one SELECT one FORMAT CSV", "WITH", "CSV"),
        (b"(SELECT 1) UNION ALL (SELECT 2)", "SELECT", None),
        (b"INSERT INTO a SELECT * FROM b", "INSERT", None),
        (b"CREATE TABLE a (b String)", "CREATE", None),
        (b"  -- nothing\n", "", None),
    ],
)
def test_the_first_word_and_the_format_are_told(sql: bytes, keyword: str, form: str | None) -> None:
    statement = read(sql)
    assert (statement.keyword, statement.format, statement.more) == (keyword, form, False)


@pytest.mark.parametrize(
    ("sql", "before", "form", "data"),
    [
        (b"INSERT INTO a (`b`) FORMAT Native\n\x01\x01;SELECT", b"INSERT INTO a (`b`)", "Native", b"\x01\x01;SELECT"),
        (b"INSERT INTO a FORMAT CSV \r\n1\n2", b"INSERT INTO a", "CSV", b"1\n2"),
        (
            b"INSERT INTO a (format) SETTINGS x = 1 FORMAT TSV\n\n1",
            b"INSERT INTO a (format) SETTINGS x = 1",
            "TSV",
            b"\n1",
        ),
        (b"INSERT INTO a VALUES (1, 'x;')", b"INSERT INTO a", "Values", b"(1, 'x;')"),
    ],
)
def test_data_begin_behind_the_format_and_one_line_end(sql: bytes, before: bytes, form: str, data: bytes) -> None:
    statement = read(sql)
    assert (statement.before_format, statement.data_format, statement.data) == (before, form, data)


@pytest.mark.parametrize("sql", [b"SELECT 1; DROP TABLE a", b"SELECT ';'; SELECT 2", b"USE a; -- then\nSELECT 1"])
def test_a_second_statement_is_seen(sql: bytes) -> None:
    assert read(sql).more


@pytest.mark.parametrize("sql", [b"SELECT ';'", b"SELECT 1; -- done", b"SELECT `;` FROM a ;"])
def test_a_semicolon_alone_makes_no_second_statement(sql: bytes) -> None:
    assert not read(sql).more
