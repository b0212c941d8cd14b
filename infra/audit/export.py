"""The audit trail to take away: FHIR AuditEvents or CSV, with a proof of each record against a signed checkpoint.

In: an inquiry. Out: a file of records in the order of the log, and beside it, where proofs are wanted, a file that
`check_proof.py` reads. Files are whole or not there.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TextIO
from uuid import UUID

from domain.events import ERASED
from domain.inquiry import Inquiry
from domain.look import Screen
from domain.origin import OriginSeen, stream
from domain.ports import Recorded
from infra.audit import unsealing
from infra.audit.cells import harmless
from infra.audit.check_proof import COLUMNS
from infra.audit.fhir import audit_event, csv_line
from infra.audit.inquiries import LogInquiries
from infra.audit.unsealing import Opener
from infra.event_log.checkpoints import Checkpoint, is_signed, public_keys, read_checkpoints
from infra.event_log.log import PostgresEventLog
from infra.event_log.proofs import Paths, prove_all
from infra.event_log.ranges import snapshot_of
from infra.event_log.rows import author, draft, microseconds, row_v1
from infra.files import written
from infra.ids import TimeOrderedIds
from infra.troubles import Trouble
from streams.deadletters import Unreadable

_BITE: Final = 500

Progress = Callable[[str, int, int], None]


class Format(StrEnum):
    FHIR = "fhir"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Exported:
    """`upto` is the last position that was looked at; `checkpoint` proves what is there."""

    records: int
    upto: int
    head: int
    checkpoint: Checkpoint | None


async def export(
    dsn: str,
    log: PostgresEventLog,
    inquiry: Inquiry,
    form: Format,
    out: Path,
    *,
    checkpoints: Path | None = None,
    opener: Opener | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Exported:
    """Write the records, and their proofs to `OUT.proofs.jsonl` where `checkpoints` is the folder of the signed ones:
    then it ends at the last of these, since what came later is not signed yet.

    `opener` opens the seals of the origins' addresses, which is recorded. Raises `Trouble`, `LogUnavailable`.
    """
    head = await log.head()
    checkpoint = _last(checkpoints) if checkpoints is not None else None
    upto = min(head if checkpoint is None else checkpoint.size, head if inquiry.upto is None else inquiry.upto)
    inquiry = replace(inquiry, upto=upto)
    inquiries = LogInquiries(dsn, log)
    positions: list[int] = []
    causes: dict[tuple[str, UUID], None] = {}
    async for rows in inquiries.rows(inquiry):
        for row in rows:
            positions.append(row[0])
            if row[12] is not None:
                causes[row[1], row[12]] = None
        progress("looking", rows[-1][0], upto)
    origins = await _origins(log, causes, opener) if opener is not None else {}
    paths = None
    if checkpoint is not None:
        paths = await asyncio.to_thread(_prove, dsn, positions, checkpoint, progress)
    count = 0
    with written(out) as file, written(_beside(out)) if paths else nullcontext() as proofs:
        if proofs is not None and checkpoint is not None:
            proofs.write(checkpoint.line().decode() + "\n")
        write = _writer(form, file)
        async for rows in inquiries.rows(inquiry):
            for row, recorded in zip(rows, await log.opened(rows), strict=True):
                if isinstance(recorded, Unreadable):
                    raise Trouble(f"This version of Daybook can't read position {row[0]}; nothing was exported.")
                write(recorded, row[5], origins.get((recorded.organization, recorded.causation_id)))
                if proofs is not None and paths is not None:
                    proofs.write(_proof(row, paths))
            count += len(rows)
            progress("writing", count, len(positions))
    return Exported(count, upto, head, checkpoint)


def _beside(out: Path) -> Path:
    return out.with_name(out.name + ".proofs.jsonl")


def _last(folder: Path) -> Checkpoint:
    keys = public_keys(folder)
    whole = [one for one in read_checkpoints(folder) if one is not None and is_signed(one, keys)]
    if not whole:
        raise Trouble(f"There is no signed checkpoint in {folder}: nothing can be proved yet. A running Daybook signs.")
    return whole[-1]


def _prove(dsn: str, positions: list[int], checkpoint: Checkpoint, progress: Progress) -> Paths:
    with snapshot_of(dsn) as (connection, _):
        try:
            paths = prove_all(
                connection, positions, checkpoint.size, lambda done, total: progress("proving", done, total)
            )
        except ValueError as error:
            raise Trouble(f"This can't be proved: {error}.") from error
    if paths.root() != checkpoint.root:
        raise Trouble("The log does not fit its last checkpoint: `daybook log verify` says where.")
    return paths


async def _origins(
    log: PostgresEventLog, causes: Mapping[tuple[str, UUID], None], opener: Opener
) -> dict[tuple[str, UUID | None], OriginSeen]:
    """The origins among the causes, opened; recorded before anything of them is told."""
    found: list[Recorded] = []
    for organization in sorted({organization for organization, _ in causes}):
        names = [stream(cause) for where, cause in causes if where == organization]
        for start in range(0, len(names), _BITE):
            some = await log.load(organization, dict.fromkeys(names[start : start + _BITE], 0))
            found += [recorded for events in some.values() for recorded in events]
    await unsealing.record(log, log.clock, TimeOrderedIds(), opener, Screen.LOG_EXPORT, found)
    return {
        (recorded.organization, recorded.event.origin_id): recorded.event
        for recorded in found
        if isinstance(recorded.event, OriginSeen)
    }


def _writer(form: Format, file: TextIO) -> Callable[[Recorded, str, OriginSeen | None], None]:
    if form is Format.FHIR:

        def as_fhir(recorded: Recorded, name: str, origin: OriginSeen | None) -> None:
            resource = audit_event(recorded, name, _opened(origin.address) if origin else None)
            file.write(json.dumps(resource, ensure_ascii=False, separators=(",", ":")) + "\n")

        return as_fhir
    table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    table.writeheader()

    def as_csv(recorded: Recorded, name: str, origin: OriginSeen | None) -> None:
        table.writerow(_line(recorded, name, origin))

    return as_csv


def _line(recorded: Recorded, name: str, origin: OriginSeen | None) -> dict[str, str]:
    line = csv_line(recorded, name)
    if origin is not None:
        line |= {"address": _opened(origin.address) or "", "agent": harmless(_opened(origin.agent) or "")}
    return line


def _opened(words: Any) -> str | None:
    return None if words is None or words is ERASED else str(words)


def _proof(row: tuple[Any, ...], paths: Paths) -> str:
    path = [step.hex() for step in paths.path(row[0])]
    return json.dumps({"position": row[0], "row": base64.b64encode(_bytes(row)).decode(), "path": path}) + "\n"


def _bytes(row: tuple[Any, ...]) -> bytes:
    """Row v1 of columns."""
    position, organization, name_of_stream, version, event_id, name, payload = row[:7]
    by = author(
        organization=organization,
        actor=row[7],
        on_behalf_of=row[8],
        purpose=row[9],
        command_id=row[10],
        correlation_id=row[11],
        causation_id=row[12],
    )
    sketch = draft(by, name_of_stream, event_id, name, bytes(payload), row[13])
    return row_v1(sketch, position, version, microseconds(row[14]))
