"""A delivery that stands still is noticed and begun anew."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

import streams.delivery
from domain.ports import Recorded
from tests.streams.test_worker import Rig, history, relaying, rig, until

__all__ = ["history", "rig"]


async def test_a_flow_that_is_never_started_again(
    rig: Rig,
    history: Sequence[Recorded],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams.delivery, "_STANDS_STILL", 4)
    await rig.pour(history[:100])
    async with relaying(rig.database, rig.kafka, rig.topics), rig.working() as work:
        await rig.caught_up()
        # What Faust does when partitions are revoked, and undoes when they are assigned.
        work._app.consumer.stop_flow()
        work._app.consumer.pause_partitions(work._app.consumer.assignment())
        await rig.pour(history[100:200])
        await rig.caught_up()
        assert work.restarts == 1
        # One that has nothing to do does not stand still.
        await asyncio.sleep(6)
        await until(lambda: work.ready)
        assert work.restarts == 1
