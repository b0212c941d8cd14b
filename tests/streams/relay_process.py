"""A relay in a process of its own: `python -m tests.streams.relay_process DSN BOOTSTRAP PREFIX`.

Prints its state whenever it changes, a line each."""

from __future__ import annotations

import asyncio
import signal
import sys

from infra.event_log.lease import Lease
from infra.event_log.raw import RawLog
from infra.kafka.connections import Brokers
from infra.kafka.publisher import KafkaOutlet
from infra.kafka.topics import Topics
from streams.relay import Relay


async def main(dsn: str, servers: str, prefix: str) -> None:
    async with RawLog(dsn) as log:
        relay = Relay(log, KafkaOutlet(Brokers(servers), Topics(prefix)), Lease(dsn, Lease.RELAY), batch=50)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, relay.stop)
        running = asyncio.create_task(relay.run())
        said = ""
        while not running.done():
            now = f"{relay.stats.state} {relay.stats.error or ''}"
            if now != said:
                print(now, flush=True)
                said = now
            await asyncio.wait((running,), timeout=0.05)
        await running
        print(relay.stats.state, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
