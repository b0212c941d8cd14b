"""The read API by itself on a book that another process fills, with the trail or without: the difference is its price.

python -m infra.bench.audit_app DATA PORT with|without
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvicorn
import uvloop

import read_api.app
from infra.audit.inquiries import LogInquiries
from infra.embedded.data_folder import DataFolder
from infra.event_log.log import PostgresEventLog
from infra.garbage import few_collections
from infra.http import tokens
from infra.http.origins import Origins
from infra.ids import TimeOrderedIds
from infra.installation import Installation
from infra.keyring import PostgresKeyring
from infra.read_models import models_on
from infra.settings import Settings
from read_api.trail import Trail


async def serve(data: Path, port: int, *, trail: bool) -> None:
    place = Installation.of_folder(Settings.load(data=data), DataFolder.open(data), None)
    keys = place.keys
    signing = keys.tokens()
    keyring = PostgresKeyring(place.postgres, keys.master())
    async with (
        PostgresEventLog(place.postgres, keyring) as log,
        models_on(place, ("diary", "free_time", "people"), log.clock) as models,
    ):
        secret = keys.secret("http")
        ids = TimeOrderedIds()
        app = read_api.app.build(
            models.diary,
            models.free_time,
            None,
            log,
            log.clock,
            tokens.Bearers({signing.id: signing.public}, tokens.READ),
            keys.positions(),
            keys.cursors(),
            people_model=models.people,
            trail=Trail(log, log.clock, ids, Origins(log, log.clock, ids, secret), secret) if trail else None,
            inquiries=LogInquiries(place.postgres, log),
        )
        config = uvicorn.Config(app, port=port, lifespan="off", log_config=None, access_log=False, ws="none")
        server = uvicorn.Server(config)
        with few_collections():
            await server.serve()
    await keyring.close()


def main() -> None:
    # uvicorn gives the signal back when it has stopped; the bench stops us by it, and that is no error.
    signal.signal(signal.SIGINT, lambda number, frame: sys.exit(0))
    data, port, trail = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(data), int(port), trail=trail == "with"))


if __name__ == "__main__":
    main()
