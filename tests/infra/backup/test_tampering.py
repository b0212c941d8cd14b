"""Whatever is done to a backup behind its back is found without a database, and the first fault is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import cramjam
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.backup import create as making
from infra.backup import parts
from infra.backup.chain import Chain
from infra.backup.manifest import CHECKPOINTS, COMMANDS, FILE, KEYS, ROWS, Manifest
from infra.backup.parts import Part, unpack, write
from infra.backup.verify import FaultKind, Report
from infra.event_log.checkpoints import SigningKey, read_checkpoints
from infra.event_log.log import PostgresEventLog
from infra.event_log.rows import copy_tuple, leaf_of, link
from infra.event_log.scan import INT8, row_and_hash
from tests.conftest import Database
from tests.infra.backup.conftest import ANNA, KEY, PUBLIC, back_up, check, confide, fill, sign

FORGER = SigningKey(b"f" * 32)


@pytest.fixture
async def folder(database: Database, log: PostgresEventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backup of 41 events in parts of ten, made in two runs; beside it the signed checkpoints, and the backup as it
    was after the first run."""
    for module in (making, parts):
        monkeypatch.setattr(module, "FULL", 10)
    folder = tmp_path / "backup"
    await confide(log, "visit/anna", ANNA, "a cough")
    await fill(log, 0, 20)
    await sign(database, tmp_path / "signed", log)
    back_up(database, folder, checkpoints=tmp_path / "signed")
    shutil.copytree(folder, tmp_path / "first run")
    await fill(log, 20, 40)
    await sign(database, tmp_path / "signed", log)
    back_up(database, folder, checkpoints=tmp_path / "signed")
    assert check(folder, checkpoints=tmp_path / "signed").ok
    return folder


def of(folder: Path, kind: str, number: int = 0) -> Part:
    return Manifest.load(folder).parts[kind][number]


def first(report: Report) -> tuple[int, FaultKind]:
    assert report.first is not None
    return report.first.position, report.first.kind


def signed_anew(folder: Path, manifest: Manifest, key: SigningKey) -> None:
    manifest.signed(key).save(folder)


def rewritten(folder: Path, number: int, change: Callable[[list[bytes]], list[bytes]], key: SigningKey = KEY) -> None:
    """A part of the rows with other content, and a manifest that fits it, signed: as somebody does who has the key."""
    manifest = Manifest.load(folder)
    part = manifest.parts[ROWS][number]
    items = change(list(unpack(folder, part).items))
    made = write(folder, ROWS, part.first, part.first, items, hash=row_and_hash(items[-1])[1] if items else b"")
    rows = list(manifest.parts[ROWS])
    rows[number] = replace(made, last=part.last, items=made.items)
    signed_anew(folder, replace(manifest, parts={**manifest.parts, ROWS: tuple(rows)}), key)


def test_a_byte_of_a_file(folder: Path) -> None:
    part = of(folder, ROWS, 2)
    data = bytearray((folder / part.file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / part.file).write_bytes(data)
    position, kind = first(check(folder))
    assert kind is FaultKind.DAMAGED
    assert part.first <= position <= part.last


def test_a_row_in_a_file_is_named_though_its_file_is_damaged(folder: Path) -> None:
    part = of(folder, ROWS, 3)
    raw = bytearray(part.raw)
    cramjam.zstd.decompress_into((folder / part.file).read_bytes(), raw)
    place = 4 + 4 * part.items + sum(len(item) for item in unpack(folder, part).items[:4]) + 30
    raw[place] ^= 1
    (folder / part.file).write_bytes(bytes(cramjam.zstd.compress(bytes(raw))))
    report = check(folder)
    assert first(report) == (part.first + 4, FaultKind.DAMAGED)
    assert "altered row" in str(report.first)


def test_a_missing_file(folder: Path) -> None:
    part = of(folder, ROWS, 1)
    (folder / part.file).unlink()
    assert first(check(folder)) == (part.first, FaultKind.MISSING)


def test_two_files_swapped(folder: Path) -> None:
    one, other = (folder / of(folder, ROWS, number).file for number in (1, 3))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    report = check(folder)
    assert [(fault.position, fault.kind) for fault in report.faults] == [
        (of(folder, ROWS, 1).first, FaultKind.DAMAGED),
        (of(folder, ROWS, 3).first, FaultKind.DAMAGED),
    ]


def test_a_file_cut_off(folder: Path) -> None:
    part = of(folder, ROWS, 4)
    (folder / part.file).write_bytes((folder / part.file).read_bytes()[:-9])
    assert first(check(folder)) == (part.first, FaultKind.DAMAGED)


@pytest.mark.parametrize("kind", [COMMANDS, KEYS, CHECKPOINTS])
@pytest.mark.parametrize("gone", [True, False])
def test_what_has_no_positions(folder: Path, kind: str, gone: bool) -> None:
    path = folder / of(folder, kind).file
    if gone:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[::-1])
    report = check(folder)
    assert first(report) == (0, FaultKind.MISSING if gone else FaultKind.DAMAGED)
    assert kind in str(report.first)


def test_a_wrong_key(folder: Path) -> None:
    faults = check(folder, keys={FORGER.id: FORGER.public}).faults
    assert {fault.kind for fault in faults} == {FaultKind.SIGNATURE}
    believed = check(folder, keys=None)
    assert (believed.ok, believed.believed) == (True, True)


def test_a_manifest_with_other_words(folder: Path) -> None:
    text = (folder / FILE).read_text()
    (folder / FILE).write_text(text.replace('"signed_upto":41', '"signed_upto":21'))
    assert first(check(folder)) == (0, FaultKind.SIGNATURE)
    for broken in (text[: len(text) // 2], "{}", "[]", "", '"x"', text.replace('"rows-', '"../rows-')):
        (folder / FILE).write_text(broken)
        assert first(check(folder)) == (0, FaultKind.MANIFEST)


def test_a_manifest_signed_by_somebody_else(folder: Path) -> None:
    signed_anew(folder, Manifest.load(folder), FORGER)
    assert first(check(folder)) == (0, FaultKind.SIGNATURE)


def test_a_tail_cut_off_in_the_manifest(folder: Path) -> None:
    manifest = Manifest.load(folder)
    short = replace(manifest, parts={**manifest.parts, ROWS: manifest.parts[ROWS][:-1]})
    signed_anew(folder, short, KEY)
    assert first(check(folder)) == (short.parts[ROWS][-1].last + 1, FaultKind.TAIL)


def test_a_part_left_out(folder: Path) -> None:
    manifest = Manifest.load(folder)
    rows = manifest.parts[ROWS]
    signed_anew(folder, replace(manifest, parts={**manifest.parts, ROWS: (rows[0], *rows[2:])}), KEY)
    assert first(check(folder)) == (rows[1].first, FaultKind.GAP)


def test_a_backup_that_was_set_back_is_found_out_by_checkpoints_kept_elsewhere(folder: Path, tmp_path: Path) -> None:
    assert check(tmp_path / "first run").ok
    assert first(check(tmp_path / "first run", checkpoints=tmp_path / "signed")) == (22, FaultKind.TAIL)


@pytest.mark.parametrize(
    ("change", "position", "kind"),
    [
        (lambda items: [items[1], items[0], *items[2:]], 11, FaultKind.GAP),
        (lambda items: [*items[:3], *items[4:]], 14, FaultKind.GAP),
        (lambda items: [*items[:3], items[3].replace(b"desk", b"disk"), *items[4:]], 14, FaultKind.ALTERED),
        (lambda items: [*items[:3], items[3][:-1], *items[4:]], 14, FaultKind.ALTERED),
        (lambda items: [*items[:3], b"", *items[4:]], 14, FaultKind.ALTERED),
    ],
)
def test_rows_changed_by_somebody_who_has_the_key(folder: Path, change: Any, position: int, kind: FaultKind) -> None:
    rewritten(folder, 1, change)
    assert first(check(folder)) == (position, kind)


def test_a_whole_new_history_by_somebody_who_has_the_key(folder: Path, tmp_path: Path) -> None:
    """The chain, the root, the versions: all fits. Only the checkpoints that were kept elsewhere tell."""
    manifest = Manifest.load(folder)
    chain, rows = Chain(), []
    for part in manifest.parts[ROWS]:
        items = []
        for item in unpack(folder, part).items:
            row = row_and_hash(item)[0].replace(b'"number":17', b'"number":71')
            items.append(copy_tuple(row, link(chain.hash, leaf_of(row))))
            chain.extend(items[-1:])
        rows.append(write(folder, ROWS, 99, part.first, items, hash=chain.hash))
    assert manifest.checkpoint is not None
    checkpoint = KEY.sign(chain.frontier, chain.hash, manifest.checkpoint.recorded_at, manifest.checkpoint.signed_at)
    forged = replace(manifest, checkpoint=checkpoint, parts={**manifest.parts, ROWS: tuple(rows), CHECKPOINTS: ()})
    signed_anew(folder, forged, KEY)
    assert check(folder).ok
    assert first(check(folder, checkpoints=tmp_path / "signed")) == (1, FaultKind.REWRITTEN)


def test_versions_and_times_that_do_not_go_on(folder: Path) -> None:
    """A history that was made up from its first row on, as one does who has every key, still has to make sense."""

    def made_up(change: Callable[[int, bytes], bytes]) -> Report:
        manifest = Manifest.load(folder)
        chain, items = Chain(), []
        position = 0
        for part in manifest.parts[ROWS]:
            for item in unpack(folder, part).items:
                position += 1
                row = change(position, row_and_hash(item)[0])
                hash = link(chain.hash, leaf_of(row))
                chain.hash = hash
                chain.frontier.append(leaf_of(row))
                items.append(copy_tuple(row, hash))
        assert manifest.checkpoint is not None
        made = write(folder, ROWS, 99, 1, items, hash=chain.hash)
        now = manifest.checkpoint.recorded_at
        signed = KEY.sign(chain.frontier, chain.hash, now, now)
        forged = replace(manifest, checkpoint=signed, parts={**manifest.parts, ROWS: (made,), CHECKPOINTS: ()})
        forged.signed(KEY).save(folder.parent / "forged")
        shutil.copy(folder / made.file, folder.parent / "forged")
        return check(folder.parent / "forged")

    shutil.copytree(folder, folder.parent / "forged")
    assert made_up(lambda position, row: row).ok
    skipped = made_up(lambda position, row: row.replace(b"page/2", b"page/9") if position == 24 else row)
    assert first(skipped) == (24, FaultKind.VERSIONS)
    early = made_up(lambda position, row: row[:-8] + INT8.pack(0) if position == 30 else row)
    assert first(early) == (30, FaultKind.BACKWARDS)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_byte_of_any_file(folder: Path, data: st.DataObject) -> None:
    """No byte of what counts can change, vanish or be added unseen."""
    path = data.draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.name != "lock")))
    whole = path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    how = data.draw(st.sampled_from(["flip", "drop", "add"]))
    flipped = bytes([whole[place] ^ data.draw(st.integers(1, 255))])
    broken = {
        "flip": whole[:place] + flipped + whole[place + 1 :],
        "drop": whole[:place] + whole[place + 1 :],
        "add": whole[:place] + b"\x00" + whole[place:],
    }[how]
    try:
        path.write_bytes(broken)
        report = check(folder)
        # White space at the manifest's end says nothing; its words are what is signed.
        assert not report.ok or (
            path.name == FILE and sha256(broken.strip()).digest() == sha256(whole.strip()).digest()
        )
    finally:
        path.write_bytes(whole)
    assert check(folder).ok


def test_a_checkpoint_in_the_backup_by_somebody_else(folder: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(folder)
    (one, other) = [one for one in read_checkpoints(tmp_path / "signed") if one is not None]
    forged = replace(one, signature=FORGER.sign_words(one.signed_words()))
    part = write(folder, CHECKPOINTS, 99, 1, [forged.line(), other.line()])
    signed_anew(folder, replace(manifest, parts={**manifest.parts, CHECKPOINTS: (part,)}), KEY)
    assert first(check(folder, keys=PUBLIC)) == (21, FaultKind.SIGNATURE)
