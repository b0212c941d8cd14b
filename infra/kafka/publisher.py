"""Publishes what the relay gives it: one Kafka transaction a batch. Implements `streams.relay.Outlet`.

Every batch takes the events, a manifest to each partition and the position in the log, all or nothing. The one
transactional id means that whoever opens it next fences this one, and that what was half written is gone by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # type: ignore[import-untyped]
from aiokafka.errors import InvalidProducerEpoch, ProducerFenced, TransactionCoordinatorFenced  # type: ignore[import-untyped]
from aiokafka.producer.message_accumulator import BatchBuilder  # type: ignore[import-untyped]

from infra.kafka.connections import Brokers
from infra.kafka.messages import POSITION_KEY, headers_of, position_from_json, position_to_json
from infra.kafka.topics import LARGEST, Topics, arguments
from streams.inbox import Manifest
from streams.parts import part_of
from streams.relay import Fenced, Published, Row

# A batch of one partition that is larger than this, bytes before compression, goes in pieces.
_PIECE: Final = 512 * 1024
# What a dead relay left open holds consumers up for so long at most; a standby that takes over ends it at once.
_TRANSACTION: Final = 30_000
_REQUEST: Final = 10_000
_PATIENCE: Final = 30.0
_LOOK_BACK: Final = 20

_FENCED: Final = (ProducerFenced, InvalidProducerEpoch, TransactionCoordinatorFenced)


class KafkaOutlet:
    """Open it inside the event loop that uses it. `patience`, seconds, bounds each of its steps."""

    def __init__(self, brokers: Brokers, topics: Topics, *, patience: float = _PATIENCE) -> None:
        self._brokers = brokers
        self._topics = topics
        self._patience = patience
        self._producer: AIOKafkaProducer | None = None

    async def open(self) -> Published:
        await self.close()
        producer = AIOKafkaProducer(
            **arguments(self._brokers, request_timeout_ms=_REQUEST),
            transactional_id=self._topics.transactional_id,
            transaction_timeout_ms=_TRANSACTION,
            compression_type="lz4",
            max_batch_size=_PIECE,
            max_request_size=LARGEST,
        )
        self._producer = producer
        # Starting ends what the one before left open, and fences it.
        async with asyncio.timeout(self._patience):
            await producer.start()
            return await self._position()

    async def publish(self, after: int, rows: Sequence[Row]) -> None:
        producer = self._producer
        if producer is None:
            raise ConnectionError("the outlet is not open")
        try:
            async with asyncio.timeout(self._patience):
                await producer.begin_transaction()
                sent = await self._send(producer, after, rows)
                await asyncio.gather(*sent)
                await producer.commit_transaction()
        except _FENCED as error:
            raise Fenced from error

    async def _send(self, producer: AIOKafkaProducer, after: int, rows: Sequence[Row]) -> list[asyncio.Future[Any]]:
        parts, now = self._topics.parts, int(time.time() * 1000)
        shares: list[list[Row]] = [[] for _ in range(parts)]
        for row in rows:
            shares[part_of(row.stream, parts)].append(row)
        upto = rows[-1].position
        sent: list[asyncio.Future[Any]] = []
        for number, share in enumerate(shares):
            batch: BatchBuilder = producer.create_batch()
            manifest = Manifest(after, upto, len(share)).to_json()
            told = [(row.stream.encode(), row.data, headers_of(row)) for row in share]
            for key, value, headers in (*told, (None, manifest, [])):
                if batch.append(timestamp=now, key=key, value=value, headers=headers) is None:
                    sent.append(await producer.send_batch(batch, self._topics.events, partition=number))
                    batch = producer.create_batch()
                    batch.append(timestamp=now, key=key, value=value, headers=headers)
            sent.append(await producer.send_batch(batch, self._topics.events, partition=number))
        position = position_to_json(Published(upto, rows[-1].hash))
        sent.append(await producer.send(self._topics.relay, key=POSITION_KEY, value=position, partition=0))
        return sent

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            # Waits for what is under way, which may be for ever.
            with contextlib.suppress(Exception):
                await asyncio.wait_for(producer.stop(), 5.0)

    async def _position(self) -> Published:
        """The last position that was committed; 0 where there is none."""
        place = TopicPartition(self._topics.relay, 0)
        consumer = AIOKafkaConsumer(
            **arguments(self._brokers, request_timeout_ms=_REQUEST),
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            consumer.assign([place])
            first = (await consumer.beginning_offsets([place]))[place]
            end = (await consumer.end_offsets([place]))[place]
            back = _LOOK_BACK
            while True:
                start = max(first, end - back)
                consumer.seek(place, start)
                found: Published | None = None
                while await consumer.position(place) < end:
                    for record in (await consumer.getmany(place, timeout_ms=500)).get(place, ()):
                        if record.key == POSITION_KEY and record.value is not None:
                            found = position_from_json(record.value)
                if found is not None or start == first:
                    return found or Published(0)
                # The last of it was broken off; the one before stands further back.
                back *= 10
        finally:
            await consumer.stop()
