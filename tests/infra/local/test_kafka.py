"""A real broker is started, joined, stopped, killed and paused, and keeps what it was given."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from infra.local.fetch import KAFKA
from infra.local.kafka import Kafka
from tests import needs


@pytest.fixture
def broker(tmp_path: Path) -> Kafka:
    needs.java(17)
    needs.maven(KAFKA)
    return Kafka(tmp_path / "kafka", die_with_me=True, short_lived=True)


async def made(kafka: Kafka, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()


async def sent(kafka: Kafka, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id="visits")
    async with producer, producer.transaction():
        await producer.send_and_wait(topic, value)


async def read(kafka: Kafka, topic: str) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, isolation_level="read_committed")
    async with consumer:
        part = TopicPartition(topic, 0)
        consumer.assign([part])
        await consumer.seek_to_beginning(part)
        found = await consumer.getmany(part, timeout_ms=5000)
    return [message.value for message in found.get(part, [])]


async def test_what_was_committed_outlives_a_stop_and_a_kill_on_the_same_port(broker: Kafka) -> None:
    broker.start()
    port = broker.port
    await made(broker, "visits")
    await sent(broker, "visits", b"monday")
    broker.stop()
    assert not broker.alive()
    broker.start()
    assert broker.port == port
    await sent(broker, "visits", b"tuesday")
    broker.kill()
    assert not broker.alive()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))
    broker.start()
    assert broker.port == port
    assert await read(broker, "visits") == [b"monday", b"tuesday"]
    broker.stop()
