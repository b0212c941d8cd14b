"""What `daybook log` tells an auditor: who did what, the book as it was, and proofs to take away."""

from __future__ import annotations

import asyncio
import csv
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from uuid import UUID

import click

from domain.inquiry import Inquiry
from domain.ports import Recorded
from domain.purpose import Purpose
from infra.cli._options import data_option, json_option
from infra.cli._progress import bar
from infra.settings import Settings
from streams.deadletters import Unreadable

if TYPE_CHECKING:
    from infra.audit.unsealing import Opener
    from infra.event_log.log import PostgresEventLog
    from infra.installation import Installation

F = TypeVar("F", bound=Callable[..., Any])

_ACTOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:|-]{0,127}")


class Instant(click.ParamType):
    """An instant in RFC 3339, or a day, which is read in UTC and ends where the next one begins."""

    name = "instant"

    def __init__(self, *, end: bool = False) -> None:
        self._end = end

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if len(value) == len("2027-03-01"):
                day = datetime.combine(date.fromisoformat(value), time(), UTC)
                return day + timedelta(days=1, microseconds=-1) if self._end else day
            instant = datetime.fromisoformat(value)
        except (ValueError, OverflowError):
            instant = None
        if instant is None or instant.tzinfo is None:
            self.fail(f"{value!r} is no day (2027-03-01) and no instant (2027-03-01T10:00:00Z)", param, ctx)
        return instant.astimezone(UTC)


class Until(click.ParamType):
    """A position of the log, or what `Instant` takes."""

    name = "instant or position"
    _instant: ClassVar = Instant(end=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | int:
        if isinstance(value, int | datetime):
            return value
        # A day has dashes, so digits alone are a position.
        return int(value) if value.isdecimal() and len(value) < 19 else self._instant.convert(value, param, ctx)


def _names(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> frozenset[str]:
    """Names of events, each in all its versions where none is said."""
    import infra.event_log.codec  # noqa: F401, PLC0415 - it loads every event's module, for which help must not wait
    from domain.events import EVENTS  # noqa: PLC0415

    found: set[str] = set()
    for value in values:
        fitting = {name for name in EVENTS if value in (name, name.rpartition(".v")[0])}
        if not fitting:
            raise click.BadParameter(f"no event is named {value!r}", ctx, param)
        found |= fitting
    return frozenset(found)


def filters(function: F) -> F:
    """Options that say which events are meant. All must fit."""
    purposes = click.Choice([purpose.value for purpose in Purpose], case_sensitive=False)
    for option in reversed(
        (
            click.option("--org", help="Only this organization's."),
            click.option("--person", help="Only what this patient, account or actor did, or what speaks of them."),
            click.option("--actor", help="Only what this actor did."),
            click.option("--on-behalf-of", help="Only what was done for this patient by somebody else."),
            click.option("--purpose", type=purposes, help="Only what was asked for this purpose."),
            click.option("--name", "names", multiple=True, callback=_names, help="Only these events; repeatable."),
            click.option("--stream", help="Only this stream's, such as appointment/ID."),
            click.option("--from", "first", type=Instant(), help="Recorded at or after this instant or day (UTC)."),
            click.option("--to", "last", type=Instant(end=True), help="Recorded at or before it; a day is included."),
        )
    ):
        function = option(function)
    return function


def unsealing(function: F) -> F:
    """Options of whoever opens the seals."""
    purposes = click.Choice([purpose.value for purpose in Purpose], case_sensitive=False)
    for option in reversed(
        (
            click.option(
                "--unseal", is_flag=True, help="Show sealed words too, never credentials. It is recorded as a look."
            ),
            click.option("--as", "opener", help="With --unseal: your own id, as the record is to name you."),
            click.option("--because", type=purposes, help="With --unseal: for which purpose."),
        )
    ):
        function = option(function)
    return function


def _opener(unseal: bool, opener: str | None, because: str | None) -> Opener | None:
    from infra.audit.unsealing import Opener  # noqa: PLC0415 - help must not wait for it

    if not unseal:
        if opener or because:
            raise click.UsageError("--as and --because go with --unseal.")
        return None
    if opener is None or because is None:
        raise click.UsageError("--unseal needs --as and --because: who looks, and why, is recorded.")
    if not _ACTOR.fullmatch(opener):
        raise click.UsageError("--as is an opaque id of letters, digits and . _ : | -, no name and no address.")
    return Opener(opener, Purpose(because))


def _inquiry(asked: dict[str, Any]) -> Inquiry:
    return Inquiry(organization=asked.pop("org"), **asked)


@asynccontextmanager
async def _log(place: Installation) -> AsyncIterator[PostgresEventLog]:
    from infra.desk import log_on  # noqa: PLC0415 - help must not wait for it

    async with log_on(place) as log:
        yield log


@click.command("show")
@data_option
@json_option
@click.option("--after", default=0, help="Start after this position.", show_default=True)
@click.option("--limit", default=50, help="How many events at most.", show_default=True)
@filters
@unsealing
def show_command(
    data: Path | None,
    as_json: bool,
    after: int,
    limit: int,
    unseal: bool,
    opener: str | None,
    because: str | None,
    **asked: Any,
) -> None:
    """List events in sentences: who did what, when, for whom and why. Words that are sealed are left out."""
    from domain.look import Screen  # noqa: PLC0415 - help must not wait for them
    from infra.audit import unsealing as seals  # noqa: PLC0415
    from infra.audit.inquiries import LogInquiries  # noqa: PLC0415
    from infra.ids import TimeOrderedIds  # noqa: PLC0415
    from infra.installation import opened  # noqa: PLC0415

    who = _opener(unseal, opener, because)
    inquiry = _inquiry({**asked, "after": after})

    async def listed(place: Installation) -> list[Recorded | Unreadable]:
        found: list[Recorded | Unreadable] = []
        async with _log(place) as log:
            async for one in LogInquiries(place.postgres, log).found(inquiry):
                found.append(one)
                if len(found) >= limit:
                    break
            if who is not None:
                seen = [one for one in found if isinstance(one, Recorded)]
                await seals.record(log, log.clock, TimeOrderedIds(), who, Screen.LOG, seen)
        return found

    with opened(Settings.load(data=data), redis=False) as place:
        for one in asyncio.run(listed(place)):
            click.echo(json.dumps(_row(one, unseal=unseal)) if as_json else _line(one, unseal=unseal))


def _line(one: Recorded | Unreadable, *, unseal: bool) -> str:
    from infra.audit.telling import told  # noqa: PLC0415 - help must not wait for it

    if isinstance(one, Unreadable):
        position = one.which.position if one.which else "?"
        return f"{position:>8}  this version of Daybook can't read it ({one.error})"
    at = one.recorded_at.isoformat(timespec="seconds").replace("+00:00", "Z")
    who = f"{one.actor} for {one.on_behalf_of}" if one.on_behalf_of else one.actor
    line = f"{one.position:>8}  {at}  {one.organization}  {who}  {one.purpose or '-'}  {told(one)}  [{one.stream}]"
    if unseal and (words := _sealed_words(one)):
        line += f"\n{'':>10}{json.dumps(words, ensure_ascii=False)}"
    return line


def _sealed_words(recorded: Recorded) -> dict[str, Any]:
    from infra.audit.unsealing import words_in  # noqa: PLC0415 - help must not wait for it

    event = recorded.event
    there = {name for name in words_in(event) if getattr(event, name) is not None}
    found: dict[str, Any] = json.loads(event.model_dump_json(include=there, fallback=str)) if there else {}
    return found


def _row(one: Recorded | Unreadable, *, unseal: bool = False) -> dict[str, Any]:
    if isinstance(one, Unreadable):
        return {"position": one.which.position if one.which else None, "unreadable": one.error}
    from infra.audit.telling import told  # noqa: PLC0415 - help must not wait for it

    event = one.event
    row = {
        "position": one.position,
        "organization": one.organization,
        "stream": one.stream,
        "version": one.version,
        "event_id": str(one.event_id),
        "name": event.NAME,
        "sentence": told(one),
        "occurred_at": one.occurred_at.isoformat(),
        "recorded_at": one.recorded_at.isoformat(),
        "actor": one.actor,
        "on_behalf_of": one.on_behalf_of,
        "purpose": one.purpose,
        "command_id": str(one.command_id),
        "correlation_id": str(one.correlation_id),
        "causation_id": str(one.causation_id) if one.causation_id else None,
        "event": event.model_dump(mode="json", exclude={*event.SEALED_FIELDS, *event.CREDENTIALS}),
    }
    return {**row, "sealed": _sealed_words(one)} if unseal else row


@click.command("replay")
@data_option
@json_option
@click.option("--until", type=Until(), required=True, help="An instant, a day (UTC, to its end), or a position.")
@click.option("--org", help="The organization. [default: DAYBOOK_ORGANIZATION]")
@click.option("--stream", help="One stream, such as patient/ID or page/ID/2027-03-01.")
@click.option("--appointment", type=click.UUID, help="One appointment, with what had happened to it.")
@click.option("--provider", type=click.UUID, help="A provider's day; --date says which.")
@click.option("--date", "day", type=click.DateTime(["%Y-%m-%d"]), help="With --provider: the day (UTC).")
def replay_command(
    data: Path | None,
    as_json: bool,
    until: datetime | int,
    org: str | None,
    stream: str | None,
    appointment: UUID | None,
    provider: UUID | None,
    day: datetime | None,
) -> None:
    """Fold the log into the book as it was, from the log alone.

    Prints the state of a stream, an appointment or a provider's day as JSON; without any of these the whole log is
    folded, and how many of everything there were is told. Sealed words are left out.
    """
    from infra.audit import replay  # noqa: PLC0415 - help must not wait for them
    from infra.installation import opened  # noqa: PLC0415

    if sum(one is not None for one in (stream, appointment, provider)) > 1:
        raise click.UsageError("Say one of --stream, --appointment and --provider.")
    if (provider is None) != (day is None):
        raise click.UsageError("--provider and --date go together.")
    settings = Settings.load(data=data)
    organization = org or settings.organization

    async def folded(place: Installation, progress: replay.Progress) -> dict[str, Any]:
        async with _log(place) as log:
            upto = until if isinstance(until, int) else await log.position_at(until)
            upto = min(upto, await log.head())
            told: dict[str, Any] = {"position": upto}
            if stream is not None:
                version, state = await replay.stream_at(log, organization, stream, upto)
                told |= {"stream": stream, "version": version, "state": state}
            elif appointment is not None:
                told |= await _appointment_at(log, organization, appointment, upto)
            elif provider is not None and day is not None:
                told |= await _day_at(log, organization, provider, day.date(), upto)
            else:
                found = await replay.whole(log, upto, progress, organization=org)
                told |= {"events": found.events, "streams": dict(found.streams.most_common())}
                told["appointments"] = found.appointments()
            return told

    with opened(settings, redis=False) as place, bar() as shown:
        task = shown.add_task("replaying", total=None)
        told = asyncio.run(folded(place, lambda done, total: shown.update(task, completed=done, total=total)))
    click.echo(_pretty(told, indent=None if as_json else 2))


async def _appointment_at(log: Any, organization: str, appointment: UUID, upto: int) -> dict[str, Any]:
    from projections.as_of import AsOf  # noqa: PLC0415 - help must not wait for it

    then = AsOf(log, organization, upto)
    history = await then.history(appointment)
    row = await then.appointment(appointment)
    return {"appointment": row, "history": [{"at": line.at, "sentence": line.sentence} for line in history]}


async def _day_at(log: Any, organization: str, provider: UUID, day: date, upto: int) -> dict[str, Any]:
    from domain.time import Period  # noqa: PLC0415 - help must not wait for them
    from projections.as_of import AsOf  # noqa: PLC0415

    start = datetime.combine(day, time(), UTC)
    rows = await AsOf(log, organization, upto).of_provider(provider, Period(start, start + timedelta(days=1)))
    return {"provider": provider, "day": day, "appointments": rows}


def _pretty(told: Any, indent: int | None) -> str:
    from pydantic_core import to_jsonable_python  # noqa: PLC0415 - help must not wait for it

    plain = to_jsonable_python(_plain(told), fallback=lambda value: "(sealed)")
    return json.dumps(plain, indent=indent, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """With keys that JSON can have: a pair becomes `A/B`."""
    from dataclasses import fields, is_dataclass  # noqa: PLC0415

    from domain.events import Erased  # noqa: PLC0415

    if isinstance(value, Erased):
        return "(sealed)"
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if hasattr(value, "items"):
        return {
            "/".join(map(str, key)) if isinstance(key, tuple) else str(key): _plain(one) for key, one in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(one) for one in value]
    return value


@click.command("export")
@data_option
@json_option
@click.option("--format", "form", type=click.Choice(["fhir", "csv"]), default="fhir", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file to write.")
@click.option("--proofs", is_flag=True, help="Write OUT.proofs.jsonl too: a proof of each record.")
@click.option("--checkpoints", type=click.Path(path_type=Path), help="The folder of checkpoints. [default: in DATA]")
@filters
@unsealing
def export_command(
    data: Path | None,
    as_json: bool,
    form: str,
    out: Path,
    proofs: bool,
    checkpoints: Path | None,
    unseal: bool,
    opener: str | None,
    because: str | None,
    **asked: Any,
) -> None:
    """Write the audit trail into a file: FHIR R4 AuditEvents (NDJSON), or CSV.

    With --proofs it ends at the last signed checkpoint, and infra/audit/check_proof.py, which needs nothing of Daybook,
    checks every record against it. Sealed words are never exported; with --unseal, the network address of each request
    is, and that is recorded as a look.
    """
    from infra.audit.export import Format, export  # noqa: PLC0415 - help must not wait for them
    from infra.installation import opened  # noqa: PLC0415

    who = _opener(unseal, opener, because)
    inquiry = _inquiry(asked)

    with opened(Settings.load(data=data), redis=False) as place, bar() as shown:
        task = shown.add_task("looking", total=None)

        def progress(what: str, done: int, total: int) -> None:
            shown.update(task, description=what, completed=done, total=total)

        async def exported() -> dict[str, Any]:
            async with _log(place) as log:
                folder = (checkpoints or place.checkpoints) if proofs else None
                done = await export(
                    place.postgres,
                    log,
                    inquiry,
                    Format(form),
                    out,
                    checkpoints=folder,
                    opener=who,
                    progress=progress,
                )
            told: dict[str, Any] = {"records": done.records, "upto": done.upto, "head": done.head}
            return told | {"signed_at": done.checkpoint.signed_at.isoformat() if done.checkpoint else None}

        told = asyncio.run(exported())
    if as_json:
        click.echo(json.dumps(told))
        return
    click.echo(f"{told['records']:,} records up to position {told['upto']:,} of {told['head']:,} are in {out}.")
    if told["signed_at"]:
        click.echo(f"Their proofs are in {out.name}.proofs.jsonl, against the checkpoint of {told['signed_at']}.")


@click.command("suspicious")
@data_option
@json_option
@click.option("--org", help="The organization. [default: DAYBOOK_ORGANIZATION]")
@click.option("--from", "first", type=Instant(), help="An instant or a day (UTC). [default: a week before the end]")
@click.option("--to", "last", type=Instant(end=True), help="An instant, or a day, which is included. [default: now]")
@click.option("--time-zone", default="UTC", show_default=True, help="An IANA zone, in which night is night.")
def suspicious_command(
    data: Path | None,
    as_json: bool,
    org: str | None,
    first: datetime | None,
    last: datetime | None,
    time_zone: str,
) -> None:
    """Find suspicious patterns: mass look-ups, records opened without a reason, nights, knocking at accounts.

    Each finding says what was counted, what is usual for that person and where to look in the log. It is a reason to
    ask somebody, and no more.
    """
    from domain.refusals import Invalid  # noqa: PLC0415 - help must not wait for them
    from domain.time import zone  # noqa: PLC0415
    from infra.audit.inquiries import LogInquiries  # noqa: PLC0415
    from infra.installation import opened  # noqa: PLC0415
    from projections.suspicions import suspicious  # noqa: PLC0415

    settings = Settings.load(data=data)
    try:
        place_of_night = zone(time_zone)
    except Invalid as refusal:
        raise click.BadParameter(refusal.message, param_hint="--time-zone") from refusal
    until = last or datetime.now(UTC)
    since = first or until - timedelta(days=7)
    if since > until:
        raise click.UsageError("--to is after --from.")

    async def found(place: Installation) -> list[Any]:
        async with _log(place) as log:
            inquiries = LogInquiries(place.postgres, log)
            return await suspicious(inquiries, org or settings.organization, since, until, place_of_night)

    with opened(settings, redis=False) as place:
        findings = asyncio.run(found(place))
    if as_json:
        click.echo(_pretty({"first": since, "last": until, "findings": findings}, indent=None))
        return
    for one in findings:
        at = one.first.isoformat(timespec="minutes").replace("+00:00", "Z")
        what = one.pattern.value.replace("_", " ")
        of_whom = f"; patient {one.patients[0]}" if len(one.patients) == 1 else ""
        click.echo(f"{at}  {what:<14} {one.who}: {one.because}{of_whom}; from position {one.positions[0]}")
    click.echo(f"{len(findings)} findings from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC.")


@click.command("disclosures")
@data_option
@json_option
@click.argument("patient", type=click.UUID)
@click.option("--org", help="The organization. [default: DAYBOOK_ORGANIZATION]")
@click.option("--from", "first", type=Instant(), help="An instant or a day (UTC). [default: six years before the end]")
@click.option("--to", "last", type=Instant(end=True), help="An instant, or a day, which is included. [default: now]")
@click.option("--accountable", is_flag=True, help="Only what 45 CFR 164.528 wants told.")
@unsealing
def disclosures_command(
    data: Path | None,
    as_json: bool,
    patient: UUID,
    org: str | None,
    first: datetime | None,
    last: datetime | None,
    accountable: bool,
    unseal: bool,
    opener: str | None,
    because: str | None,
) -> None:
    """Account for the disclosures of a PATIENT's data over six years (45 CFR 164.528): CSV, or with --json one object.

    Every look and every disclosure written down, with what the rule exempts marked. Sealed words (recipients and
    reasons of what went out by post, fax or telephone) need --unseal, and that is recorded as a look.
    """
    from domain.disclosure import Kind, stream  # noqa: PLC0415 - help must not wait for them
    from domain.look import Screen  # noqa: PLC0415
    from infra.audit import unsealing as seals  # noqa: PLC0415
    from infra.ids import TimeOrderedIds  # noqa: PLC0415
    from infra.installation import opened  # noqa: PLC0415
    from projections.looks import Disclosed, accounting, years_before  # noqa: PLC0415

    who = _opener(unseal, opener, because)
    settings = Settings.load(data=data)
    organization = org or settings.organization
    until = last or datetime.now(UTC)
    since = first or years_before(until)

    async def told(place: Installation) -> Sequence[Disclosed]:
        async with _log(place) as log:
            lines = await accounting(log, organization, patient, since, until)
            if who is not None:
                name = stream(patient)
                written = (await log.load(organization, {name: 0}))[name]
                await seals.record(log, log.clock, TimeOrderedIds(), who, Screen.DISCLOSURES, written)
            return lines

    with opened(settings, redis=False) as place:
        lines = asyncio.run(told(place))
    rows = [
        {
            "at": line.at.isoformat(),
            "kind": line.kind.value,
            "recipient": line.recipient if unseal or line.by_look else "(sealed)",
            "recipient_address": line.address if unseal or line.by_look else "(sealed)",
            "client_id": line.client_id,
            "what": line.what if unseal or line.by_look else "(sealed)",
            "why": line.why if unseal or line.by_look else "(sealed)",
            "resource_id": str(line.resource_id) if line.resource_id else None,
        }
        for line in lines
        if line.kind is Kind.ACCOUNTABLE or not accountable
    ]
    if as_json:
        period = {"patient_id": str(patient), "first": since.isoformat(), "last": until.isoformat()}
        click.echo(json.dumps({**period, "disclosures": rows}, ensure_ascii=False))
        return
    from infra.audit.cells import harmless  # noqa: PLC0415

    columns = ("at", "kind", "recipient", "recipient_address", "client_id", "what", "why", "resource_id")
    table = csv.DictWriter(click.get_text_stream("stdout"), columns, lineterminator="\n")
    table.writeheader()
    table.writerows({name: harmless(value or "") for name, value in row.items()} for row in rows)


COMMANDS = (show_command, replay_command, export_command, suspicious_command, disclosures_command)
