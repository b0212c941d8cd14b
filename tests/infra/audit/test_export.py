"""What is taken away can be checked by a stranger, in a process of their own, who has nothing of ours."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from functools import reduce
from io import StringIO
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

from domain.inquiry import Inquiry
from domain.purpose import Purpose
from infra.audit import check_proof
from infra.audit.export import COLUMNS, Exported, Format, export
from infra.audit.unsealing import Opener
from infra.event_log.checkpoints import Checkpointer, SigningKey, public_keys
from infra.troubles import Trouble
from tests.clinic import DESK, ORGANIZATION, Clinic
from tests.conftest import Database
from tests.served import Served
from tests.write_api.test_appointments import booked

KEY = SigningKey(bytes(range(32)))


class Part(BaseModel):
    """R4's shapes, written from https://hl7.org/fhir/R4/auditevent.html: what is not there may not be."""

    model_config = ConfigDict(extra="forbid")


class Coding(Part):
    system: str = Field(pattern=r"^(http|urn:)")
    code: str = Field(pattern=r"^[^\s]+(\s[^\s]+)*$")
    display: str | None = None


class Concept(Part):
    coding: list[Coding] = []
    text: str | None = None


class Identifier(Part):
    system: str
    value: str


class Reference(Part):
    identifier: Identifier | None = None
    display: str | None = None


class Network(Part):
    address: str
    type: Literal["1", "2", "3", "4", "5"]


class Agent(Part):
    who: Reference | None = None
    altId: str | None = None
    requestor: bool
    network: Network | None = None


class Source(Part):
    site: str | None = None
    observer: Reference


class Detail(Part):
    type: str
    valueString: str


class Entity(Part):
    what: Reference | None = None
    type: Coding | None = None
    role: Coding | None = None
    detail: list[Detail] = []


class AuditEvent(Part):
    resourceType: Literal["AuditEvent"]
    id: str = Field(pattern=r"^[A-Za-z0-9\-.]{1,64}$")
    type: Coding
    subtype: list[Coding]
    action: Literal["C", "R", "U", "D", "E"]
    recorded: AwareDatetime
    outcome: Literal["0", "4", "8", "12"]
    outcomeDesc: str = Field(min_length=1)
    purposeOfEvent: list[Concept] | None = None
    agent: list[Agent] = Field(min_length=1)
    source: Source
    entity: list[Entity] = []


def checked(folder: Path, export: Path, *more: str) -> tuple[int, str]:
    """By the script alone, copied to where nothing of ours can be imported."""
    script = folder / "stranger" / "check_proof.py"
    script.parent.mkdir(exist_ok=True)
    shutil.copy(check_proof.__file__, script)
    proofs = export.with_name(export.name + ".proofs.jsonl")
    # -I: neither the folder we run in nor PYTHONPATH is looked into.
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(export), str(proofs), "--key", str(folder / f"{KEY.id}.pub"), *more],
        capture_output=True,
        text=True,
        cwd=script.parent,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.fixture
async def signed(book: Served, clinic: Clinic, database: Database, tmp_path: Path) -> Path:
    """The folder of the checkpoints of a log with looks, bookings and origins; two events are not signed yet."""
    one = await booked(book, clinic, reason="Secret words.")
    await book.get(f"/appointments/{one}", DESK, headers={"User-Agent": "=cmd|' /C calc'!A0"})
    folder = tmp_path / "checkpoints"
    await Checkpointer(database.app, folder, KEY, book.log.wait).close()
    await book.get(f"/appointments/{one}", DESK)
    await book.get(f"/appointments/{one}", DESK)
    return folder


async def exported(
    book: Served, database: Database, out: Path, form: Format = Format.FHIR, folder: Path | None = None, **more: Any
) -> Exported:
    opener = more.pop("opener", None)
    return await export(database.app, book.log, Inquiry(**more), form, out, checkpoints=folder, opener=opener)


@pytest.mark.parametrize("form", list(Format))
async def test_a_stranger_finds_every_record_in_the_signed_log(
    book: Served, clinic: Clinic, database: Database, signed: Path, form: Format
) -> None:
    out = signed / "audit"
    done = await exported(book, database, out, form, signed)
    assert done.checkpoint is not None
    assert done.records == done.upto == done.checkpoint.size == done.head - 2
    code, words = checked(signed, out, "--checkpoints", str(signed / "checkpoints.jsonl"))
    assert (code, words.startswith(f"{done.records} records are in the log")) == (0, True), words
    assert f"positions 1 to {done.records}, none of these left out" in words
    assert "Secret" not in out.read_text()
    assert out.stat().st_mode & 0o077 == 0
    # What was asked for with filters says that there is more.
    some = signed / "some"
    few = await exported(book, database, some, form, signed, person=str(clinic.patient))
    code, words = checked(signed, some)
    assert code == 0, words
    assert "none of these" not in words
    assert 0 < few.records < done.records


async def test_audit_events_have_the_shape_that_r4_gives_them(
    book: Served, clinic: Clinic, database: Database, signed: Path
) -> None:
    out = signed / "audit.ndjson"
    opener = Opener("officer-1", Purpose.OPERATIONS)
    await exported(book, database, out, opener=opener)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for resource in TypeAdapter(list[AuditEvent]).validate_python(lines):
        assert (resource.agent[0].requestor, resource.source.site) == (True, ORGANIZATION)
    looks = [line for line in lines if line["subtype"][0]["code"] == "RecordSeen.v1"]
    assert [(look["action"], look["type"]["code"]) for look in looks] == [("R", "110110")] * 3
    assert looks[0]["purposeOfEvent"] == [
        {
            "text": "TREATMENT",
            "coding": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/v3-ActReason",
                    "code": "TREAT",
                    "display": "treatment",
                }
            ],
        }
    ]
    assert looks[0]["agent"][0]["network"] == {"address": "127.0.0.1", "type": "2"}
    assert looks[0]["entity"][1]["what"]["identifier"]["value"] == str(clinic.patient)
    made = next(line for line in lines if line["subtype"][0]["code"] == "AppointmentBooked.v1")
    assert (made["action"], made["agent"][0]["altId"]) == ("C", DESK.id)
    # The addresses were opened, which is in the log by now.
    last = (await book.log.read(await book.log.head() - 1, 1))[0]
    assert (last.event.NAME, last.actor) == ("LogUnsealed.v1", "officer-1")


async def test_addresses_stay_sealed_unless_somebody_answers_for_opening_them(
    book: Served, database: Database, signed: Path
) -> None:
    out = signed / "audit.csv"
    before = await book.log.head()
    await exported(book, database, out, Format.CSV)
    assert await book.log.head() == before
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert {line["address"] for line in lines} == {""}
    await exported(book, database, out, Format.CSV, opener=Opener("officer-1", Purpose.OPERATIONS))
    with out.open(newline="") as file:
        agents = {line["agent"] for line in csv.DictReader(file)}
    # No spreadsheet takes a stranger's words for a formula.
    assert "'=cmd|' /C calc'!A0" in agents


def _in_record(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def altered(out: Path) -> None:
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        change(next(line for line in lines if line["subtype"][0]["code"] == "RecordSeen.v1"))
        out.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return altered


def _in_proofs(change: Callable[[list[dict[str, Any]]], None]) -> Callable[[Path], None]:
    def altered(out: Path) -> None:
        path = out.with_name(out.name + ".proofs.jsonl")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        change(lines)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    return altered


def _lines(change: Callable[[list[str]], None]) -> Callable[[Path], None]:
    def altered(out: Path) -> None:
        lines = out.read_text().splitlines(keepends=True)
        change(lines)
        out.write_text("".join(lines))

    return altered


def _other_row(lines: list[dict[str, Any]]) -> None:
    lines[3]["row"] = lines[4]["row"]


def _flip(lines: list[dict[str, Any]]) -> None:
    lines[2]["path"][0] = "00" * 32


def _forge(lines: list[dict[str, Any]]) -> None:
    forger = SigningKey(bytes(32))
    words = {name: lines[0][name] for name in check_proof.SIGNED}
    said = b"daybook checkpoint v1\x00" + json.dumps(words, sort_keys=True, separators=(",", ":")).encode()
    lines[0]["signature"] = forger.sign_words(said).hex()


TAMPERINGS: dict[str, tuple[Callable[[Path], None], str]] = {
    "another actor": (_in_record(lambda one: one["agent"][0].update(altId="desk-2")), "another agent.0.altId"),
    "another actor, twice": (
        _in_record(lambda one: one["agent"][0].update(altId="x", who={"identifier": {"value": "x"}})),
        "another agent.0.altId",
    ),
    "another patient": (
        _in_record(lambda one: one["entity"][1]["what"]["identifier"].update(value=str(UUID(int=1)))),
        "another entity.1.what.identifier.value",
    ),
    "no patient": (_in_record(lambda one: one["entity"].pop()), "tells 1 of entity and not 2"),
    "one more actor": (
        _in_record(lambda one: one["agent"].append({"altId": "dr-who", "requestor": False})),
        "tells 2 of agent and not 1",
    ),
    "another purpose": (
        _in_record(lambda one: one["purposeOfEvent"][0].update(text="EMERGENCY")),
        "another purposeOfEvent.0.text",
    ),
    "another purpose's code": (
        _in_record(lambda one: one["purposeOfEvent"][0]["coding"][0].update(code="ETREAT")),
        "another purposeOfEvent.0.coding.0.code",
    ),
    "another outcome": (_in_record(lambda one: one.update(outcome="8")), "another outcome"),
    "another action": (_in_record(lambda one: one.update(action="D")), "another action"),
    "a member more": (_in_record(lambda one: one.update(purposeOfEvents=[])), "'purposeOfEvents', which is not in"),
    "another hour": (
        _in_record(lambda one: one.update(recorded="2026-01-01T00:00:00+00:00")),
        "another recorded",
    ),
    "another event": (
        _in_record(lambda one: one["subtype"][0].update(code="PatientRegistered.v1")),
        "another subtype.0.code",
    ),
    "an address that is none": (
        _in_record(lambda one: one["agent"][0].update(network={"address": "::1", "type": "1"})),
        "address is none",
    ),
    "no sentence": (_in_record(lambda one: one.update(outcomeDesc="")), "sentence is none"),
    "a member twice": (
        _lines(lambda lines: lines.__setitem__(0, '{"id": "x", ' + lines[0][1:])),
        "stands there twice",
    ),
    "a record left out": (_lines(lambda lines: lines.pop(2)), "record 3"),
    "the last record left out": (_lines(lambda lines: lines.pop()), "not of one length"),
    "a record twice": (_lines(lambda lines: lines.append(lines[-1])), "not of one length"),
    "no record at all": (_lines(lambda lines: lines.clear()), "not of one length"),
    "another's row": (_in_proofs(_other_row), "record 3"),
    "a row and its path twice": (_in_proofs(lambda lines: lines.__setitem__(3, lines[2])), "record 3"),
    "a hash of the path": (_in_proofs(_flip), "not in the signed log"),
    "a path cut short": (_in_proofs(lambda lines: lines[2]["path"].pop()), "not in the signed log"),
    "a path too long": (_in_proofs(lambda lines: lines[2]["path"].append("00" * 32)), "too long"),
    "a root": (_in_proofs(lambda lines: lines[0].update(root="00" * 32)), "not signed by this key"),
    "a size": (_in_proofs(lambda lines: lines[0].update(size=10**6)), "not signed by this key"),
    "a forged signature": (_in_proofs(_forge), "not signed by this key"),
    "no signature": (_in_proofs(lambda lines: lines[0].pop("signature")), "not of the right form"),
    "no JSON": (_lines(lambda lines: lines.insert(1, "{nonsense\n")), "not of the right form"),
}


async def test_whatever_is_tampered_with_is_found_out(book: Served, database: Database, signed: Path) -> None:
    whole = signed / "whole"
    await exported(book, database, whole, folder=signed)
    for number, (what, (tamper, words)) in enumerate(TAMPERINGS.items()):
        out = signed / f"tampered-{number}"
        for end in ("", ".proofs.jsonl"):
            shutil.copy(f"{whole}{end}", f"{out}{end}")
        tamper(out)
        code, told = checked(signed, out)
        assert (code, told.startswith("WRONG: "), words in told) == (1, True, True), f"{what}: {told}"
    # A true checkpoint of another log, though signed by the same key, is not among one's own copies.
    other = signed / "other.jsonl"
    other.write_text(json.dumps({"size": 1, "root": "00"}) + "\n")
    assert "not among your own copies" in checked(signed, whole, "--checkpoints", str(other))[1]


def refused(out: Path) -> bool:
    """By the script, in this process."""
    asked = [str(out), f"{out}.proofs.jsonl", "--key", str(out.parent / f"{KEY.id}.pub")]
    with redirect_stdout(StringIO()) as told:
        code = check_proof.main(asked)
    assert told.getvalue().startswith("WRONG: ") == bool(code)
    return code == 1


UNPROVED = (("outcomeDesc",), ("agent", 0, "network"), ("agent", 0, "network", "address"))


def places(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a record."""
    yield path
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


def at(record: Any, path: Sequence[str | int]) -> Any:
    return reduce(lambda node, key: node[key], path, record)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


def other(draw: st.DrawFn, value: Any) -> Any:
    """Anything but this value; what looks much like it comes first."""
    alike: list[Any] = [f"{value} ", str(value).upper(), 1, 0, None, [value]]
    return draw((st.sampled_from(alike) | ANYTHING).filter(lambda new: json.dumps(new) != json.dumps(value)))


@st.composite
def mutilated(draw: st.DrawFn, record: dict[str, Any]) -> dict[str, Any]:
    """The record with something changed, added or taken away, anywhere but in what is not proved."""
    record = deepcopy(record)
    path = draw(st.sampled_from([path for path in places(record) if path and path not in UNPROVED]))
    holder, key, node = at(record, path[:-1]), path[-1], at(record, path)
    match draw(st.sampled_from(["change", "take away", "add"])):
        case "take away":
            del holder[key]
        case "add" if isinstance(node, dict):
            unproved = {"network"} if path == ("agent", 0) else set()
            node[draw(st.text().filter(lambda name: name not in {*node, *unproved}))] = draw(ANYTHING)
        case "add" if isinstance(node, list):
            node.insert(draw(st.integers(0, len(node))), draw(st.sampled_from(node) | ANYTHING))
        case _:
            holder[key] = other(draw, node)
    return record


async def test_no_member_of_a_record_can_be_another(book: Served, database: Database, signed: Path) -> None:
    out = signed / "audit"
    await exported(book, database, out, folder=signed, opener=Opener("officer-1", Purpose.OPERATIONS))
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert not refused(out)
    assert any("network" in record["agent"][0] for record in records)

    @settings(max_examples=300, deadline=None)
    @given(st.data(), st.integers(0, len(records) - 1))
    def mutations(data: st.DataObject, number: int) -> None:
        record = data.draw(mutilated(records[number]))
        some = [*records[:number], record, *records[number + 1 :]]
        out.write_text("".join(json.dumps(one) + "\n" for one in some))
        assert refused(out), record

    mutations()


async def test_no_cell_of_a_line_can_be_another(book: Served, database: Database, signed: Path) -> None:
    out = signed / "audit.csv"
    await exported(book, database, out, Format.CSV, signed, opener=Opener("officer-1", Purpose.OPERATIONS))
    with out.open(newline="") as file:
        lines = list(csv.reader(file))
    assert not refused(out)
    cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r\n"))
    proved = [column for column in range(len(COLUMNS)) if COLUMNS[column] not in check_proof.UNPROVED]

    @settings(max_examples=300, deadline=None)
    @given(st.data(), st.integers(0, len(lines) - 1), st.sampled_from(["change", "take away", "add"]))
    def mutations(data: st.DataObject, number: int, how: str) -> None:
        line = list(lines[number])
        column = data.draw(st.sampled_from(proved if number else range(len(COLUMNS))))
        if how == "change":
            line[column] = data.draw(cells.filter(lambda cell: cell != line[column]))
        elif how == "take away":
            del line[column]
        else:
            line.insert(column, data.draw(cells))
        with out.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([*lines[:number], line, *lines[number + 1 :]])
        assert refused(out), line

    mutations()


def test_the_script_knows_every_purpose() -> None:
    assert set(check_proof.PURPOSES) == {purpose.value for purpose in Purpose}


async def test_what_is_not_signed_is_not_proved(
    book: Served, clinic: Clinic, database: Database, tmp_path: Path
) -> None:
    with pytest.raises(Trouble, match="no signed checkpoint"):
        await exported(book, database, tmp_path / "out", folder=tmp_path)
    assert not (tmp_path / "out").exists()
    # Signed by a key that is not there: as good as not signed.
    await Checkpointer(database.app, tmp_path, KEY, book.log.wait).close()
    assert set(public_keys(tmp_path)) == {KEY.id}
    (tmp_path / f"{KEY.id}.pub").unlink()
    with pytest.raises(Trouble, match="no signed checkpoint"):
        await exported(book, database, tmp_path / "out", folder=tmp_path)
