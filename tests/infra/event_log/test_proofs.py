"""Proofs of many events at once are those that are made one by one."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from infra.event_log.checkpoints import Checkpointer, SigningKey, read_checkpoints
from infra.event_log.log import PostgresEventLog
from infra.event_log.merkle import is_included
from infra.event_log.proofs import prove_all
from infra.event_log.rows import leaf_of
from infra.event_log.verify import prove
from tests.conftest import Database
from tests.infra.event_log.conftest import notes


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
