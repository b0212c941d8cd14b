"""Checks a backup without a database: every file, every row, the chain, the Merkle root and the signed checkpoints.

In: the folder, and the public keys that may have signed it. Out: a report that names what is at fault, by position.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from infra.backup import chain as chains
from infra.backup.chain import Broken, Chain
from infra.backup.manifest import CHECKPOINTS, COMMANDS, FILE, KEYS, ROWS, Manifest
from infra.backup.parts import Damaged, Part, unpack
from infra.event_log.checkpoints import Checkpoint, is_signed, read_checkpoints

_MOST: Final = 100


class FaultKind(StrEnum):
    MANIFEST = "manifest damaged"
    SIGNATURE = "not signed by a known key"
    MISSING = "file missing"
    DAMAGED = "file damaged"
    GAP = "gap"
    ALTERED = "altered row"
    BACKWARDS = "recorded_at runs backwards"
    VERSIONS = "versions not continuous"
    REWRITTEN = "rewritten since it was signed"
    TAIL = "tail cut off"


@dataclass(frozen=True, slots=True)
class Fault:
    """`position` is the first event that is not as it was, or not there; 0 where the fault is not one of events."""

    position: int
    kind: FaultKind
    detail: str = ""

    def __str__(self) -> str:
        where = f"position {self.position}: " if self.position else ""
        return f"{where}{self.kind.value}" + (f" ({self.detail})" if self.detail else "")


@dataclass(slots=True)
class Report:
    """`events` were read, `checkpoints` compared; `manifest` is None where it can't be read. `believed` says that only
    the keys in the backup itself were there to check the signatures: good against faults, not against forgery."""

    manifest: Manifest | None = None
    events: int = 0
    checkpoints: int = 0
    believed: bool = False
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def first(self) -> Fault | None:
        return self.faults[0] if self.faults else None


def verify(
    folder: Path,
    *,
    keys: Mapping[str, bytes] | None = None,
    checkpoints: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Read the whole backup. `keys` are the public keys that may have signed it, by `checkpoints.key_id`; where it is
    None those that the manifest names are believed. `checkpoints` is a folder of signed checkpoints that were kept
    elsewhere: with them a backup is found out that was set back to an earlier state. Raises `NoBackup`.
    """
    started = time.perf_counter()
    report = Report(believed=keys is None)
    try:
        report.manifest = manifest = Manifest.load(folder)
    except Damaged as damaged:
        report.faults.append(Fault(0, FaultKind.MANIFEST, damaged.why))
        return report
    trusted = manifest.public_keys if keys is None else keys
    if manifest.run and not manifest.is_signed(trusted):
        report.faults.append(Fault(0, FaultKind.SIGNATURE, f"{FILE}, key {manifest.key}"))
    else:
        # What a trusted key signed speaks for the keys before it.
        trusted = {**manifest.public_keys, **trusted}
    signed = list(_signed(folder, manifest, report))
    if checkpoints is not None:
        signed += [one for one in read_checkpoints(checkpoints) if one is not None]
    chain = _rows(folder, manifest, {one.size for one in signed}, report, progress)
    _compare(manifest, chain, signed, trusted, report)
    for kind in (COMMANDS, KEYS):
        for _ in _contents(folder, kind, manifest.parts[kind], report):
            pass
    report.faults.sort(key=lambda fault: fault.position)
    del report.faults[_MOST:]
    report.seconds = time.perf_counter() - started
    return report


def _contents(folder: Path, kind: str, parts: Sequence[Part], report: Report) -> Iterator[Sequence[bytes]]:
    """What parts of a kind that has no chain hold, as far as they are sound."""
    expected = 1
    for part in parts:
        if part.first != expected or part.items != part.last + 1 - part.first:
            report.faults.append(Fault(0, FaultKind.MANIFEST, f"{kind} do not count on at {part.file}"))
        expected = part.last + 1
        try:
            yield unpack(folder, part).items
        except Damaged as damaged:
            kind_of = FaultKind.MISSING if damaged.why == "missing" else FaultKind.DAMAGED
            report.faults.append(Fault(0, kind_of, str(damaged)))


def _signed(folder: Path, manifest: Manifest, report: Report) -> Iterator[Checkpoint]:
    for lines in _contents(folder, CHECKPOINTS, manifest.parts[CHECKPOINTS], report):
        for line in lines:
            try:
                yield Checkpoint.read(line)
            except ValueError:
                report.faults.append(Fault(0, FaultKind.DAMAGED, "a checkpoint"))
    if manifest.checkpoint is not None:
        yield manifest.checkpoint


def _rows(
    folder: Path, manifest: Manifest, wanted: set[int], report: Report, progress: Callable[[int, int], None]
) -> Chain:
    chain = Chain()
    chain.watch_versions()
    for part in manifest.parts[ROWS]:
        if part.first != chain.position + 1:
            report.faults.append(Fault(chain.position + 1, FaultKind.GAP, f"{part.file} is not what comes next"))
            chain.resume(part.first - 1, b"")
        try:
            chain.extend(unpack(folder, part).items, wanted)
            if chain.position != part.last:
                raise Broken(chain.position + 1, chains.Fault.GAP)
            if chain.hash != part.hash:
                raise Broken(part.last, chains.Fault.ALTERED)
        except Damaged as damaged:
            report.faults.append(_found(folder, part, damaged, chain))
            chain.resume(part.last, part.hash)
        except Broken as broken:
            report.faults.append(Fault(broken.position, FaultKind(broken.fault.value), part.file))
            chain.resume(part.last, part.hash)
        else:
            report.events += part.items
        progress(part.last, manifest.position)
    if chain.position != manifest.position:
        report.faults.append(Fault(chain.position + 1, FaultKind.TAIL, f"the manifest says {manifest.position}"))
    return chain


def _found(folder: Path, part: Part, damaged: Damaged, chain: Chain) -> Fault:
    """Where in a damaged file the damage is, as far as it can still be unpacked."""
    if damaged.why == "missing":
        return Fault(part.first, FaultKind.MISSING, part.file)
    try:
        items = unpack(folder, part, trusting=True).items
    except Damaged as deeper:
        return Fault(part.first, FaultKind.DAMAGED, str(deeper))
    try:
        chain.extend(items)
    except Broken as broken:
        return Fault(broken.position, FaultKind.DAMAGED, f"{part.file}: {broken.fault.value}")
    # Every row is sound; only the file around them is not as it was.
    return Fault(part.first, FaultKind.DAMAGED, str(damaged))


def _compare(
    manifest: Manifest, chain: Chain, signed: Sequence[Checkpoint], keys: Mapping[str, bytes], report: Report
) -> None:
    """What was signed with what stands there. Behind the first fault nothing can be compared."""
    faults = [fault.position for fault in report.faults if fault.position]
    sound = min(faults) - 1 if faults else manifest.position
    last = 0
    for one in sorted(signed, key=lambda one: one.size):
        if not is_signed(one, keys):
            report.faults.append(Fault(one.size, FaultKind.SIGNATURE, f"checkpoint, key {one.key}"))
        elif one.size > manifest.position:
            report.faults.append(Fault(manifest.position + 1, FaultKind.TAIL, f"signed up to {one.size}"))
            return
        elif one.size <= sound:
            if chain.trees.get(one.size) != (one.root, one.hash):
                between = f"somewhere from here to {one.size}"
                report.faults.append(Fault(last + 1, FaultKind.REWRITTEN, between))
                return
            report.checkpoints += 1
        last = one.size
