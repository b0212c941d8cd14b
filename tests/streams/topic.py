"""What consumers see of the topic, and what anyone may write into it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from infra.kafka.connections import Brokers
from infra.kafka.messages import arrived
from infra.kafka.topics import Topics, set_up
from streams.inbox import Arrived
from streams.parts import part_of

ROOT = Path(__file__).parents[2]
_numbers = count(1)


async def new_topics(servers: str) -> Topics:
    """Topics that no other test knows."""
    topics = Topics(f"test-{time.time_ns()}-{next(_numbers)}")
    await set_up(Brokers(servers), topics)
    return topics


def start_relay(dsn: str, servers: str, topics: Topics) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.streams.relay_process", dsn, servers, topics.prefix],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


async def says(process: subprocess.Popen[str], word: str, within: float = 30.0) -> None:
    """Wait until a process prints a line that starts so."""
    assert process.stdout is not None
    async with asyncio.timeout(within):
        while not (line := await asyncio.to_thread(process.stdout.readline)).startswith(word):
            assert line, f"it ended without saying {word}"


class Seen:
    """Everything of the topic that a consumer which reads committed was given, by partition."""

    def __init__(self, consumer: AIOKafkaConsumer, topics: Topics) -> None:
        self._consumer = consumer
        self._topics = topics
        self.arrived: dict[int, list[Arrived]] = {number: [] for number in range(topics.parts)}
        self.records: list[Any] = []

    async def until(self, holds: Callable[[], bool], within: float = 60.0) -> None:
        async with asyncio.timeout(within):
            while not holds():
                await self.more()

    async def more(self, seconds: float = 0.1) -> None:
        for place, records in (await self._consumer.getmany(timeout_ms=int(seconds * 1000))).items():
            self.arrived[place.partition] += arrived(records)
            self.records += records

    @property
    def upto(self) -> int:
        """The position up to which every partition was told."""
        return min(
            max((one.manifest.upto for one in some if one.manifest), default=0) for some in self.arrived.values()
        )

    def assert_whole(self, head: int) -> None:
        """Every position once, in order, where it belongs, and every manifest true and following the one before."""
        found: list[int] = []
        for number, some in self.arrived.items():
            at, since = 0, []
            for one in some:
                if one.manifest is None:
                    assert one.row is not None, "junk"
                    assert part_of(one.stream, self._topics.parts) == number
                    since.append(one.position)
                    continue
                assert one.manifest.after == at
                at = one.manifest.upto
                assert one.manifest.events == len(since)
                assert all(one.manifest.after < position <= at for position in since)
                assert since == sorted(set(since))
                found += since
                since = []
            assert not since
            assert at == head
        assert sorted(found) == list(range(1, head + 1))


@asynccontextmanager
async def seeing(servers: str, topics: Topics, isolation: str = "read_committed") -> AsyncIterator[Seen]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers, isolation_level=isolation, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topics.events, number) for number in range(topics.parts)])
        yield Seen(consumer, topics)
    finally:
        await consumer.stop()
