"""Somebody who leads or stands by, in a process of its own: `python -m tests.infra.leader_process DSN FILE`.

Prints `leads` and `leads no more`, and adds a line with its process id to the file while it leads."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from infra.leadership import Leader


async def main(dsn: str, file: Path) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)

    async def write() -> None:
        while True:
            with file.open("a") as lines:
                lines.write(f"{os.getpid()}\n")
            await asyncio.sleep(0.02)

    @asynccontextmanager
    async def work() -> AsyncIterator[None]:
        print("leads", flush=True)
        writing = asyncio.create_task(write())
        try:
            yield
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            print("leads no more", flush=True)

    async with Leader(dsn, "test", work):
        print("there", flush=True)
        await told.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
