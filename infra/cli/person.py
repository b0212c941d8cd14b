"""`daybook person`: hand out all that is held of a person."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from domain.purpose import Purpose
from infra.cli._options import data_option
from infra.files import written
from infra.settings import Settings

_ACTOR = re.compile(r"[A-Za-z0-9._:|-]{1,100}")


@click.group("person")
def command() -> None:
    """Hand out all that is held of a person (GDPR 15 and 20, 45 CFR 164.524)."""


@command.command("export")
@click.argument("patient_id", type=click.UUID)
@click.option("--format", "form", type=click.Choice(["json", "html"]), default="json", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to; made for its owner alone.")
@click.option("--as", "who", required=True, help="Your own id, as the record is to name you.")
@click.option(
    "--because",
    type=click.Choice([purpose.value for purpose in Purpose], case_sensitive=False),
    default=Purpose.REQUEST.value,
    show_default=True,
    help="For which purpose.",
)
@click.option("--org", help="The organization. [default: main]")
@data_option
def export_command(
    patient_id: UUID, form: str, out: Path | None, who: str, because: str, org: str | None, data: Path | None
) -> None:
    """Write all that is held of the patient PATIENT_ID, as JSON or as a page for people.

    This is recorded as a look. Works beside a running Daybook, and without one.
    """
    if not _ACTOR.fullmatch(who):
        raise click.UsageError("--as is an opaque id of letters, digits and . _ : | -, no name and no address.")
    settings = Settings.load(data=data)
    from infra.installation import opened  # noqa: PLC0415 - help must not wait for it

    with opened(settings, redis=False) as place:
        told = asyncio.run(_export(place, org or settings.organization, patient_id, form, who, Purpose(because)))
    if told is None:
        click.echo("daybook: there is no such patient.", err=True)
        sys.exit(1)
    if out is None:
        click.echo(told)
        return
    with written(out) as file:
        file.write(told)


async def _export(place: Any, organization: str, patient_id: UUID, form: str, who: str, purpose: Purpose) -> str | None:
    from domain.access import Role  # noqa: PLC0415
    from domain.look import RecordSeen, Screen, stream  # noqa: PLC0415
    from domain.ports import Context, NewEvent, Save  # noqa: PLC0415
    from infra.desk import log_on  # noqa: PLC0415
    from infra.ids import TimeOrderedIds  # noqa: PLC0415
    from read_api import exports  # noqa: PLC0415

    async with log_on(place) as log:
        new, now = TimeOrderedIds().new, log.clock.now()
        found = await exports.of_person(log, organization, patient_id, await log.head(), now)
        if found is None:
            return None
        # First the look, then the words (45 CFR 164.312(b)).
        look_id, command_id = new(), new()
        seen = RecordSeen(patient_id=patient_id, screen=Screen.PERSONAL_EXPORT, role=Role.ADMIN)
        context = Context(organization, who, command_id, command_id, purpose=purpose.value)
        name = stream(patient_id, look_id)
        await log.append(Save(context, {name: 0}, [NewEvent(name, seen, now, look_id)]))
        return "".join(exports.pieces(found)) if form == "html" else found.model_dump_json(indent=1)
