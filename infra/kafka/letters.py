"""Dead letters in a compacted topic, and what asks for a stream to be applied again. Implements
`streams.deadletters.DeadLetters` and `LetterBox`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # type: ignore[import-untyped]

from infra.kafka.connections import Brokers
from infra.kafka.topics import Topics, arguments
from streams.deadletters import Letter, Retry
from streams.parts import part_of

_REQUEST: Final = 10_000
_PATIENCE: Final = 15.0

# Topic, partition, key, value; None as a value takes away what stands under the key.
_Sent = tuple[str, int, bytes, bytes | None]


class KafkaLetters:
    """Open it inside the event loop that uses it: `async with KafkaLetters(brokers, topics) as letters`.

    It connects when it is first needed. Its methods raise `KafkaError` or `TimeoutError` where Kafka can't be
    reached."""

    def __init__(self, brokers: Brokers, topics: Topics) -> None:
        self._brokers = brokers
        self._topics = topics
        self._producer: AIOKafkaProducer | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._let_go()

    async def write(self, letters: Sequence[Letter]) -> None:
        await self._send((self._topics.deadletter, 0, one.key.encode(), one.to_json()) for one in letters)

    async def settle(self, keys: Sequence[str]) -> None:
        await self._send((self._topics.deadletter, 0, key.encode(), None) for key in keys)

    async def ask(self, retries: Sequence[Retry]) -> None:
        parts = self._topics.parts
        await self._send(
            (
                self._topics.retries,
                # Where the stream's events are, so that the worker gets it that fills the model with them.
                part_of(f"{one.organization}/{one.stream}", parts),
                f"{one.model}|{one.organization}/{one.stream}".encode(),
                one.to_json(),
            )
            for one in retries
        )

    async def all(self) -> Mapping[str, Letter]:
        place = TopicPartition(self._topics.deadletter, 0)
        consumer = AIOKafkaConsumer(
            **arguments(self._brokers, request_timeout_ms=_REQUEST),
            isolation_level="read_committed",
            enable_auto_commit=False,
            # A place that is asked for by seeking may be moved to the end meanwhile.
            auto_offset_reset="earliest",
        )
        found: dict[str, Letter] = {}
        async with asyncio.timeout(4 * _PATIENCE):
            try:
                await consumer.start()
                consumer.assign([place])
                end = (await consumer.end_offsets([place]))[place]
                while await consumer.position(place) < end:
                    for record in (await consumer.getmany(place, timeout_ms=500)).get(place, ()):
                        key = (record.key or b"").decode("utf-8", "replace")
                        found.pop(key, None)
                        if record.value is not None:
                            with contextlib.suppress(ValueError):
                                found[key] = Letter.from_json(record.value)
            finally:
                await consumer.stop()
        return found

    async def _send(self, messages: Iterable[_Sent]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                producer = await self._open()
                sent = [
                    await producer.send(topic, key=key, value=value, partition=partition)
                    for topic, partition, key, value in messages
                ]
                await asyncio.gather(*sent)
        except BaseException:
            await self._let_go()
            raise

    async def _open(self) -> AIOKafkaProducer:
        async with self._opening:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    **arguments(self._brokers, request_timeout_ms=_REQUEST),
                    enable_idempotence=True,
                    compression_type="lz4",
                )
                await producer.start()
                self._producer = producer
            return self._producer

    async def _let_go(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(producer.stop(), 5.0)
