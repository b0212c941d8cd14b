"""Row v1 never changes: the vectors of docs/decisions/0001-row-v1-and-chain.md."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.refusals import Invalid
from infra.event_log.log import PostgresEventLog
from infra.event_log.rows import (
    FIRST_HASH,
    author,
    draft,
    fields,
    instant,
    leaf_of,
    link,
    microseconds,
    row_v1,
    text,
)
from infra.event_log.scan import position_in, recorded_at_in, row_and_hash, tuples, with_position
from tests.conftest import Database
from tests.infra.event_log.conftest import notes

RECORD = Path(__file__).parents[3] / "docs" / "decisions" / "0001-row-v1-and-chain.md"
RECORDED = datetime(2026, 3, 1, 9, 0, 0, 250000, tzinfo=UTC)

ROW_1 = row_v1(
    draft(
        author(
            organization="clinic-a",
            actor="desk-1",
            on_behalf_of=None,
            purpose=None,
            command_id=UUID(int=2),
            correlation_id=UUID(int=3),
            causation_id=None,
        ),
        "clinic-a/appointment/1",
        UUID(int=1),
        "AppointmentBooked.v1",
        b'{"fee":"80.00"}',
        datetime(2026, 3, 1, 9, tzinfo=UTC),
    ),
    1,
    1,
    microseconds(RECORDED),
)
ROW_2 = row_v1(
    draft(
        author(
            organization="clinic-a",
            actor="Dr. Müller",
            on_behalf_of="patient/7",
            purpose="TREAT",
            command_id=UUID("0195a2f0-0000-7000-8000-000000000002"),
            correlation_id=UUID("0195a2f0-0000-7000-8000-000000000003"),
            causation_id=UUID("0195a2f0-0000-7000-8000-000000000001"),
        ),
        "clinic-a/page/room-1/1999-12-31",
        UUID("0195a2f0-0000-7000-8000-000000000004"),
        "TimeReserved.v1",
        b"",
        datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ),
    2,
    2**32 + 1,
    microseconds(RECORDED),
)
BYTES_1 = (
    "000000080000000000000001 00000008636c696e69632d61 00000016636c696e69632d612f6170706f696e746d656e742f31"
    " 000000080000000000000001 0000001000000000000000000000000000000001"
    " 000000144170706f696e746d656e74426f6f6b65642e7631 0000000f7b22666565223a2238302e3030227d 000000066465736b2d31"
    " ffffffff ffffffff 0000001000000000000000000000000000000002 0000001000000000000000000000000000000003 ffffffff"
    " 000000080002eef176bc4400 000000080002eef176c01490"
)
BYTES_2 = (
    "000000080000000000000002 00000008636c696e69632d61"
    " 0000001f636c696e69632d612f706167652f726f6f6d2d312f313939392d31322d3331 000000080000000100000001"
    " 000000100195a2f0000070008000000000000004 0000000f54696d6552657365727665642e7631 00000000"
    " 0000000b44722e204dc3bc6c6c6572 0000000970617469656e742f37 000000055452454154"
    " 000000100195a2f0000070008000000000000002 000000100195a2f0000070008000000000000003"
    " 000000100195a2f0000070008000000000000001 00000008ffffffffffffffff 000000080002eef176c01490"
)
LEAF_1 = "90b777d9fba72bc5a051f56830bebe661fb26b1c308dd6aa9fe546b3a34c33b8"
HASH_1 = "8347b8f4e290275b619f483ec6f751dd84c5d183bb2a02800696c3497d5ed5c1"
LEAF_2 = "8fbdaa7357c97217d74e415cb1a265c491c50adc1eb333dc3696cbf086ba3abb"
HASH_2 = "edb1c7f5b6e313c8b094bad8f2cdb2d2b17190be26b73199776aaf9cff15d6b3"


def test_the_bytes_the_leaves_and_the_chain() -> None:
    assert bytes.fromhex(BYTES_1) == ROW_1
    assert bytes.fromhex(BYTES_2) == ROW_2
    assert leaf_of(ROW_1).hex() == LEAF_1
    assert leaf_of(ROW_2).hex() == LEAF_2
    first = link(FIRST_HASH, leaf_of(ROW_1))
    assert (first.hex(), link(first, leaf_of(ROW_2)).hex()) == (HASH_1, HASH_2)


def test_the_record_holds_the_same_vectors() -> None:
    record = RECORD.read_text()
    for words in (LEAF_1, HASH_1, LEAF_2, HASH_2):
        assert words in record


def test_what_stands_where() -> None:
    assert (position_in(ROW_2), instant(recorded_at_in(ROW_2))) == (2, RECORDED)
    assert position_in(with_position(ROW_2, 77)) == 77
    assert with_position(with_position(ROW_2, 77), 2) == ROW_2
    parts = list(fields(ROW_1))
    assert (len(parts), parts[1], parts[8]) == (15, b"clinic-a", None)


@given(st.datetimes(timezones=st.just(UTC)))
def test_an_instant_survives_to_the_microsecond(when: datetime) -> None:
    assert instant(microseconds(when)) == when


def test_text_that_postgresql_can_not_hold_is_refused() -> None:
    for words in ("\x00", "a\x00b", "\ud800"):
        with pytest.raises(Invalid):
            text(words)


async def test_postgresql_gives_back_the_bytes_that_were_hashed(log: PostgresEventLog, database: Database) -> None:
    await log.append(notes("page/ü", 0, 1, 2))
    hash = FIRST_HASH
    with psycopg.connect(database.app) as connection:
        rows = [row_and_hash(data) for data in tuples(connection, 0, 10)]
    assert [position_in(row) for row, _ in rows] == [1, 2]
    for row, stored in rows:
        hash = link(hash, leaf_of(row))
        assert stored == hash
