"""Proofs of many events at once are those that are made one by one."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from domain.inquiry import Inquiry
from infra.audit.inquiries import LogInquiries
from infra.event_log.archive import archive
from infra.event_log.checkpoints import Checkpointer, SigningKey, read_checkpoints
from infra.event_log.connections import Detached
from infra.event_log.log import PostgresEventLog
from infra.event_log.merkle import is_included
from infra.event_log.parts import detach
from infra.event_log.proofs import prove_all
from infra.event_log.rows import leaf_of
from infra.event_log.verify import prove
from tests.conftest import Database
from tests.infra.event_log.conftest import notes
from tests.infra.event_log.test_archive import PART, archivist, fill, sign, small_parts


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 21])
async def test_all_at_once_is_as_one_by_one(
    log: PostgresEventLog, database: Database, tmp_path: Path, size: int
) -> None:
    await log.append(notes("page/a", 0, *range(size)))
    await Checkpointer(database.app, tmp_path, SigningKey(bytes(32)), log.wait).close()
    await log.append(notes("page/a", size, size))
    (checkpoint,) = read_checkpoints(tmp_path)
    assert checkpoint is not None
    steps: list[tuple[int, int]] = []
    with psycopg.connect(database.app, autocommit=True) as connection:
        paths = prove_all(connection, range(1, size + 1), size, lambda done, total: steps.append((done, total)))
        assert paths.root() == checkpoint.root
        assert steps[-1] == (size, size)
        for position in range(1, size + 1):
            row, path = prove(database.app, position, size)
            assert paths.path(position) == path
            assert is_included(leaf_of(row), position - 1, size, path, checkpoint.root)
        some = prove_all(connection, [size], size)
        assert some.path(size) == paths.path(size)
        assert len(some.nodes) <= len(paths.nodes)
        with pytest.raises(ValueError, match="reach"):
            prove_all(connection, [1], size + 2)
        with pytest.raises(ValueError, match="tree"):
            prove_all(connection, [size + 1], size)


async def test_what_lies_in_the_archive_is_proved_and_found_and_what_was_detached_is_refused(
    log: PostgresEventLog, database: Database, tmp_path: Path
) -> None:
    small_parts(database)
    for upto in (50, 60):
        await fill(log, await log.head(), upto)
        await sign(database, tmp_path, log)
    checkpoint = read_checkpoints(tmp_path)[-1]
    assert checkpoint is not None
    archive(archivist(database), tmp_path, upto=50)
    inquiries = LogInquiries(database.app, log)
    assert [one.position async for one in inquiries.answered(Inquiry())] == list(range(1, 61))
    detach(database.superuser, tmp_path / "part", tmp_path)
    with psycopg.connect(database.app, autocommit=True) as connection:
        paths = prove_all(connection, [17, 40, 60], 60)
        assert paths.root() == checkpoint.root
        for position in (17, 40, 60):
            row, path = prove(database.app, position, 60)
            assert paths.path(position) == path
            assert is_included(leaf_of(row), position - 1, 60, path, checkpoint.root)
        with pytest.raises(ValueError, match="detached"):
            prove_all(connection, [3, 40], 60)
    assert [one.position async for one in inquiries.answered(Inquiry(after=PART))] == list(range(17, 61))
    with pytest.raises(Detached):
        _ = [one async for one in inquiries.answered(Inquiry(after=3))]
