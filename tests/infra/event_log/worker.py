"""A writer in a process of its own: `python -m tests.infra.event_log.worker DSN NAME SAVES STREAMS`.

Adds to shared streams, again on conflict, and prints the event ids of each save once it is acknowledged, a save a line.
"""

from __future__ import annotations

import asyncio
import random
import sys

from domain.ports import VersionConflict
from infra.event_log.log import PostgresEventLog
from infra.keyring import MasterKeyFile, PostgresKeyring
from tests.infra.event_log.conftest import new, save

CLIENTS = 16


async def main(dsn: str, name: str, saves: int, streams: int) -> None:
    keyring = PostgresKeyring(dsn, MasterKeyFile(bytes(32)))
    async with PostgresEventLog(dsn, keyring) as log:
        left = iter(range(saves))

        async def client(number: int) -> None:
            dice = random.Random(f"{name} {number}")
            for _ in left:
                pages = [f"page/{page}" for page in dice.sample(range(streams), 2)]
                while True:
                    versions = {
                        stream: len(events)
                        for stream, events in (await log.load("clinic", dict.fromkeys(pages, 0))).items()
                    }
                    asked = save(versions, *(new(page, number) for page in pages), actor=name)
                    try:
                        await log.append(asked)
                    except VersionConflict:
                        continue
                    print(*(event.event_id for event in asked.events), flush=True)
                    break

        await asyncio.gather(*map(client, range(CLIENTS)))
    await keyring.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
