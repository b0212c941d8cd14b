"""Rows of the log come back from messages as they were, and nothing that somebody else wrote does harm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuids
from hypothesis import example, given
from hypothesis import strategies as st

from infra.event_log.rows import NotARow, author, columns, draft, instant, row_v1, stream_in
from infra.kafka.messages import arrived, headers_of, position_from_json, position_to_json
from streams.inbox import Manifest
from streams.relay import Published, Row
from tests.infra.event_log.conftest import NOON

EVENT, COMMAND, CORRELATION = (UUID(str(uuids.uuid7())) for _ in range(3))


def row(*, causation: UUID | None = None, purpose: str | None = None, payload: bytes = b"{}") -> bytes:
    who = author(
        organization="elm",
        actor="désk",
        on_behalf_of=None,
        purpose=purpose,
        command_id=COMMAND,
        correlation_id=CORRELATION,
        causation_id=causation,
    )
    return row_v1(draft(who, "elm/page/ü", EVENT, "A.v1", payload, NOON), 7, 3, 86_400_000_000)


def record(key: bytes | None, value: bytes | None) -> Any:
    return SimpleNamespace(offset=5, timestamp=1500, key=key, value=value)


@pytest.mark.parametrize("causation", [None, EVENT, UUID(int=2**128 - 1), UUID(int=0)])
@pytest.mark.parametrize("purpose", [None, "", "care"])
def test_a_row_comes_back_column_by_column(causation: UUID | None, purpose: str | None) -> None:
    data = row(causation=causation, purpose=purpose)
    assert columns(data) == (
        *(7, "elm", "elm/page/ü", 3, EVENT, "A.v1", b"{}", "désk", None, purpose),
        *(COMMAND, CORRELATION, causation, NOON, instant(86_400_000_000)),
    )
    assert stream_in(data) == "elm/page/ü"
    (one,) = arrived([record(b"elm/page/x", data)])
    assert (one.offset, one.at, one.position, one.stream, one.manifest) == (5, 1.5, 7, "elm/page/ü", None)
    headers = dict(headers_of(Row(7, one.stream, data)))
    assert headers == {
        "position": b"7",
        "traceparent": f"00-{CORRELATION.hex}-{COMMAND.hex[16:]}-01".encode(),
    }


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 300))
@example(b"", 0, 0)
@example(b"\xff" * 8, 12, 20)
def test_bytes_that_are_no_row_are_junk_and_no_more(noise: bytes, start: int, end: int) -> None:
    whole = row()
    for data in (noise, whole[:start], whole + noise[:1] + b"x", whole[:start] + noise + whole[max(start, end) :]):
        try:
            columns(data)
        except NotARow:
            assert arrived([record(b"k", data)])[0].row is None
        for key in (None, b"k"):
            (one,) = arrived([record(key, data)])
            assert one.row is None or one.manifest is None


def test_tombstones_and_manifests() -> None:
    found = arrived([record(None, Manifest(1, 4, 2).to_json()), record(None, None), record(b"k", None)])
    assert [(one.row, one.manifest) for one in found] == [(None, Manifest(1, 4, 2)), (None, None), (None, None)]
    for published in (Published(99, b"\x01" * 32), Published(99)):
        assert position_from_json(position_to_json(published)) == published
    assert position_from_json(b'{"position": 99}') == Published(99)
    for data in (b"{}", b"[", b'{"position":"1"}', b'{"position":1,"hash":1}', b'{"position":1,"hash":"xy"}'):
        with pytest.raises(ValueError):  # noqa: PT011 - decoding and shape alike
            position_from_json(data)
