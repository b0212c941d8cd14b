"""A writer process of its own: reads batches of commands from its standard input, answers with what became of each.

Run as `python -m tests.commands.rival DSN MASTER_KEY_FILE`. A line in: `{"now": …, "organization": …, "commands":
[[name, body], …]}`; a line out: the appointment's id, `"done"`, or a refusal's code for each command.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic_core import from_json, to_json

from commands import appointments, resources
from commands.loop import Command, Desk
from domain.access import Actor, Role
from domain.ports import FixedClock
from domain.refusals import Refusal
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring

COMMANDS: dict[str, type[Command]] = {
    kind.__name__: kind
    for kind in (
        appointments.HoldAppointment,
        appointments.BookAppointment,
        appointments.BookHeldAppointment,
        appointments.MoveAppointment,
        appointments.CancelAppointment,
        appointments.LapseHold,
        resources.BlockTimes,
    )
}
ACTOR = Actor("rival", Role.SYSTEM)


async def attempt(desk: Desk, organization: str, name: str, body: dict[str, Any]) -> str:
    try:
        answer = await desk.handle(COMMANDS[name].model_validate(body), ACTOR, organization)
    except Refusal as refusal:
        return refusal.code
    return str(answer.content.get("appointment_id", "done"))


async def work(dsn: str, key: Path) -> None:
    keyring = PostgresKeyring(dsn, MasterKeyFile.at(key))
    async with PostgresEventLog(dsn, keyring) as log:
        clock = FixedClock(datetime.fromisoformat("2026-01-01T00:00:00+00:00"))
        desk = Desk(log, clock, TimeOrderedIds(), PublicHolidays())
        while line := await asyncio.to_thread(sys.stdin.readline):
            batch = from_json(line)
            clock.instant = datetime.fromisoformat(batch["now"])
            outcomes = await asyncio.gather(
                *(attempt(desk, batch["organization"], name, body) for name, body in batch["commands"])
            )
            sys.stdout.write(to_json(outcomes).decode() + "\n")
            sys.stdout.flush()
    await keyring.close()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], Path(sys.argv[2])))
