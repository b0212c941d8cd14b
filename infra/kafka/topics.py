"""The topics: their names, how many partitions they have, and what the brokers keep of them for how long.

In: brokers. Out: topics that are as they should be, or `WrongTopics` where they can't be made so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]
from aiokafka.errors import for_code  # type: ignore[import-untyped]

from infra.kafka.connections import Brokers
from infra.settings import Settings
from infra.troubles import Trouble
from streams.parts import PARTS

RETENTION_DAYS: Final = 7
# Above the largest event that the log takes: a body of 1 MiB, sealed and encoded.
LARGEST: Final = 8 * 1024 * 1024
_TOPIC_EXISTS: Final = 36
_SET_ON_TOPIC: Final = 1
_KNOWN_WITHIN: Final = 10.0


class WrongTopics(Trouble):
    """A topic is not as it must be, and can't be made so by itself."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Topics:
    """The names, all with one prefix. `parts` is for ever: read models keep what it gave beside their rows."""

    prefix: str = "daybook"
    parts: int = PARTS

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those under the prefix that the settings name."""
        return cls(settings.kafka_prefix)

    @property
    def events(self) -> str:
        return f"{self.prefix}.events"

    @property
    def retries(self) -> str:
        return f"{self.prefix}.retries"

    @property
    def deadletter(self) -> str:
        return f"{self.prefix}.deadletter"

    @property
    def relay(self) -> str:
        return f"{self.prefix}.relay"

    @property
    def transactional_id(self) -> str:
        return f"{self.prefix}.relay"

    def wanted(self) -> Mapping[str, tuple[int, Mapping[str, str]]]:
        """By name: how many partitions, and the settings."""
        flow = {
            "cleanup.policy": "delete",
            "retention.ms": str(RETENTION_DAYS * 24 * 60 * 60 * 1000),
            "compression.type": "lz4",
            "max.message.bytes": str(LARGEST),
        }
        table = {"cleanup.policy": "compact", "compression.type": "lz4"}
        # A position is written with every batch, so what is compacted must not lie around for a week first.
        position = {"segment.ms": str(10 * 60 * 1000), "segment.bytes": str(16 * 1024 * 1024)}
        return {
            self.events: (self.parts, flow),
            self.retries: (self.parts, flow),
            self.deadletter: (1, table),
            self.relay: (1, table | position),
        }


async def set_up(brokers: Brokers, topics: Topics, *, replication: int = -1) -> list[str]:
    """Make what is missing, bring settings to what they should be, and return the names of the topics made.

    `replication` -1 is the cluster's default. Several may do so at once. Raises `WrongTopics` where a topic has another
    number of partitions, and `KafkaError`."""
    admin = AIOKafkaAdminClient(**brokers.arguments(), client_id="daybook")
    await admin.start()
    try:
        wanted = topics.wanted()
        new = [
            # The empty mapping says that the cluster places them, which -1 needs.
            NewTopic(name, partitions, replication, {} if replication == -1 else None, dict(settings))
            for name, (partitions, settings) in wanted.items()
        ]
        answer = await admin.create_topics(new)
        made = []
        for name, code, *_ in answer.topic_errors:
            if code == 0:
                made.append(name)
            elif code != _TOPIC_EXISTS:
                raise for_code(code)(name)
        await _check(admin, wanted)
        await _bring_up(admin, {name: wanted[name][1] for name in wanted if name not in made})
        return made
    finally:
        await admin.close()


async def _check(admin: AIOKafkaAdminClient, wanted: Mapping[str, tuple[int, Mapping[str, str]]]) -> None:
    give_up = time.monotonic() + _KNOWN_WITHIN
    while True:
        found = await admin.describe_topics(list(wanted))
        if not any(one["error_code"] for one in found):
            break
        # Brokers hear of a new topic one after the other.
        if time.monotonic() > give_up:
            raise next(for_code(one["error_code"])(one["topic"]) for one in found if one["error_code"])
        await asyncio.sleep(0.05)
    for one in found:
        name, partitions = one["topic"], len(one["partitions"])
        if partitions != wanted[name][0]:
            raise WrongTopics(
                f"The topic {name} has {partitions} partitions and must have {wanted[name][0]}: read models know their"
                " parts by that number. Use topics under another prefix, and rebuild the read models."
            )


async def _bring_up(admin: AIOKafkaAdminClient, wanted: Mapping[str, Mapping[str, str]]) -> None:
    if not wanted:
        return
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in wanted]
    changed = []
    for answer in await admin.describe_configs(asked):
        for code, _, _, name, entries in answer.resources:
            if code:
                raise for_code(code)(name)
            # Altering sets everything anew, so what an operator has set besides is said again.
            own = {entry[0]: entry[1] for entry in entries if entry[3] == _SET_ON_TOPIC}
            if not wanted[name].items() <= own.items():
                changed.append(ConfigResource(ConfigResourceType.TOPIC, name, configs={**own, **wanted[name]}))
    if changed:
        for answer in await admin.alter_configs(changed):
            for code, _, _, name in answer.resources:
                if code:
                    raise for_code(code)(name)


def arguments(brokers: Brokers, **more: Any) -> dict[str, Any]:
    """What every client of ours is given."""
    return {**brokers.arguments(), "client_id": "daybook", "retry_backoff_ms": 100, **more}
