"""`daybook log show|replay`, as somebody types it."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuids
from click.testing import CliRunner
from pydantic import SecretStr

from commands.accounts import CreateAccount
from commands.appointments import BookAppointment, CancelAppointment
from commands.disclosures import RecordDisclosure
from commands.patients import RegisterPatient
from domain.access import Role
from domain.account import LinkIssued, LinkPurpose, PasswordChanged, TotpEnrolled
from domain.disclosure import Means
from domain.origin import OriginSeen
from domain.ports import Context, NewEvent, Save
from domain.purpose import Purpose
from infra.cli.log import command
from infra.desk import desk_for, log_on
from infra.embedded.servers import Servers
from infra.installation import Installation
from infra.settings import Settings
from tests.clinic import ADMIN, CHECKUP, DESK, LOCATION, in_days, open_clinic

DAYBOOK_LOG = CliRunner()


@dataclass(frozen=True, slots=True)
class Kept:
    """A data folder with a clinic in it: one visit, booked at a position and cancelled after it."""

    data: Path
    patient: UUID
    provider: UUID
    appointment: UUID
    booked_at: int
    head: int
    holder: UUID
    account: UUID
    secrets: tuple[str, ...]


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    with tempfile.TemporaryDirectory(prefix="daybook-cli-") as folder:
        settings = Settings.load(data=Path(folder) / "data", organization="main")
        with Servers(settings, redis=False) as servers:
            yield asyncio.run(_filled(Installation.embedded(settings, servers), settings.data))


async def _filled(place: Installation, data: Path) -> Kept:
    async with log_on(place) as log:
        desk = desk_for(place, log)
        clinic = await open_clinic(desk, organization="main", patients=1)
        made = await desk.handle(RegisterPatient(reference="MRN 0042"), ADMIN, "main", purpose="OPERATIONS")
        patient = UUID(made.content["patient_id"])
        visit = BookAppointment(
            patient_id=patient,
            provider_id=clinic.provider,
            location_id=LOCATION.id,
            visit_type_id=CHECKUP.id,
            start=in_days(3),
        )
        booked = await desk.handle(visit, DESK, "main", purpose="TREATMENT")
        appointment = UUID(booked.content["appointment_id"])
        await desk.handle(CancelAppointment(appointment_id=appointment), DESK, "main")
        by_fax = RecordDisclosure(
            patient_id=patient,
            made_at=log.clock.now(),
            purpose=Purpose.PUBLIC_HEALTH,
            means=Means.FAX,
            recipient="=Health Office",
            what="a test",
            why="a duty",
        )
        await desk.handle(by_fax, DESK, "main")
        holder = UUID((await desk.handle(RegisterPatient(), ADMIN, "main")).content["patient_id"])
        mine = CreateAccount(
            email="pat@example.org",
            role=Role.PATIENT,
            password=SecretStr("correct horse battery"),
            patient_id=holder,
        )
        account_id = UUID((await desk.handle(mine, ADMIN, "main")).content["account_id"])
        stream = f"account/{account_id}"
        events = (await log.load("main", {stream: 0}))[stream]
        context = Context("main", "system", log_id := uuids.uuid7(), log_id)
        enrolled = TotpEnrolled(account_id=account_id, secret="JBSWY3DPEHPK3PXP")
        linked = LinkIssued(account_id=account_id, purpose=LinkPurpose.RESET, nonce="n0nce", expires_at=in_days(1))
        seen = OriginSeen(origin_id=log_id, person=str(account_id), address="192.0.2.7", agent="Firefox")
        now = log.clock.now()
        new = [
            NewEvent(stream, enrolled, now, uuids.uuid7()),
            NewEvent(stream, linked, now, uuids.uuid7()),
            NewEvent(f"origin/{log_id}", seen, now, uuids.uuid7()),
        ]
        saved = await log.append(Save(context, {stream: len(events), f"origin/{log_id}": 0}, new))
        (hashed,) = [str(one.event.password_hash) for one in events if isinstance(one.event, PasswordChanged)]
        secrets = (hashed, "JBSWY3DPEHPK3PXP", "n0nce")
        head = saved.position
        return Kept(data, patient, clinic.provider, appointment, booked.position, head, holder, account_id, secrets)


def say(kept: Kept, *arguments: str, exit_code: int = 0) -> str:
    answer = DAYBOOK_LOG.invoke(command, [*arguments, "--data", str(kept.data)])
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == exit_code, answer.output
    return answer.output


def test_what_happened_is_told_in_sentences(kept: Kept) -> None:
    lines = say(kept, "show", "--person", str(kept.patient)).splitlines()
    assert any(f"admin-1  OPERATIONS  Patient {kept.patient} was registered" in line for line in lines)
    assert any("desk-1  TREATMENT  The front desk booked" in line for line in lines)
    assert all(str(kept.patient) in line or str(kept.appointment) in line for line in lines)
    by_desk = say(kept, "show", "--actor", "desk-1", "--purpose", "treatment", "--name", "AppointmentBooked")
    assert len(by_desk.splitlines()) == 1
    assert say(kept, "show", "--to", "2000-01-01") == ""
    assert say(kept, "show", "--from", "2000-01-01", "--limit", "3").count("\n") == 3
    assert "MRN 0042" not in say(kept, "show", "--limit", "1000", "--json")


def test_seals_are_opened_for_whoever_says_who_they_are_and_why_and_it_is_recorded(kept: Kept) -> None:
    asked = ("show", "--stream", f"patient/{kept.patient}", "--unseal", "--as", "officer-1", "--because", "OPERATIONS")
    (row,) = [json.loads(line) for line in say(kept, *asked, "--json").splitlines()]
    assert row["sealed"]["reference"] == "MRN 0042"
    assert "MRN 0042" in say(kept, *asked)
    looks = say(kept, "show", "--person", str(kept.patient), "--name", "RecordSeen.v1", "--json").splitlines()
    told = [json.loads(line) for line in looks]
    assert [(one["actor"], one["purpose"], one["event"]["screen"]) for one in told] == [
        ("officer-1", "OPERATIONS", "log")
    ] * 2


def test_opening_an_account_shows_the_patient_who_looked_and_shows_nobody_a_credential(kept: Kept) -> None:
    def looks() -> list[str]:
        told = say(kept, "show", "--person", str(kept.holder), "--name", "RecordSeen", "--limit", "100", "--json")
        return [json.loads(line)["actor"] for line in told.splitlines()]

    def opened(*asked: str) -> list[dict[str, Any]]:
        told = say(kept, "show", *asked, "--unseal", "--as", "officer-2", "--because", "OPERATIONS", "--json")
        return [json.loads(line) for line in told.splitlines()]

    account = ("--stream", f"account/{kept.account}")
    assert "officer-2" not in looks()
    (origin,) = opened("--name", "OriginSeen")
    assert origin["sealed"] == {"address": "192.0.2.7", "agent": "Firefox"}
    # The words are the account's, and the account is the patient's.
    assert looks().count("officer-2") == 1
    rows = opened(*account)
    assert looks().count("officer-2") == 2
    assert {name for row in rows for name in row["sealed"]} == {"email"}
    # An event with nothing but a credential in it opens nothing, and is no look.
    enrolled = opened(*account, "--name", "TotpEnrolled", "--name", "PasswordChanged")
    assert [row["sealed"] for row in enrolled] == [{}, {}]
    assert looks().count("officer-2") == 2
    for more in ((), ("--unseal", "--as", "officer-2", "--because", "OPERATIONS")):
        said = say(kept, "show", "--limit", "1000", "--json", *more) + say(kept, "show", "--limit", "1000", *more)
        assert not [secret for secret in kept.secrets if secret in said]
    replayed = say(kept, "replay", "--until", str(kept.head), *account)
    assert not [secret for secret in kept.secrets if secret in replayed]


def test_the_book_is_shown_as_it_was(kept: Kept) -> None:
    def replayed(*arguments: str) -> dict[str, object]:
        told: dict[str, object] = json.loads(say(kept, "replay", "--json", *arguments))
        return told

    assert replayed("--until", str(kept.booked_at))["appointments"] == {"booked": 1}
    assert replayed("--until", str(kept.head))["appointments"] == {"cancelled": 1}
    assert replayed("--until", "2000-01-01")["events"] == 0
    one = ("--appointment", str(kept.appointment))
    then = replayed("--until", str(kept.booked_at), *one)
    assert (then["appointment"]["status"], len(then["history"])) == ("booked", 1)  # type: ignore[index, arg-type]
    now = replayed("--until", "2999-01-01T00:00:00Z", *one)
    assert (now["appointment"]["status"], len(now["history"])) == ("cancelled", 2)  # type: ignore[index, arg-type]
    day = ("--provider", str(kept.provider), "--date", str(in_days(3).date()))
    assert len(replayed("--until", str(kept.booked_at), *day)["appointments"]) == 1  # type: ignore[arg-type]
    stream = replayed("--until", str(kept.head), "--stream", f"patient/{kept.patient}")
    assert stream["version"] == 1
    assert "MRN 0042" not in json.dumps(stream)
    provider = replayed("--until", str(kept.head), "--stream", f"provider/{kept.provider}")
    assert provider["state"]["name"] == "Dr. Ada Example"  # type: ignore[index]


def test_what_is_suspicious_is_told_with_where_to_look(kept: Kept) -> None:
    told = json.loads(say(kept, "suspicious", "--json", "--time-zone", "Europe/Berlin"))
    # The desk booked for the patient; nobody else was looked at, and the officer's look at the log is an event, too.
    assert [one["pattern"] for one in told["findings"]] in ([], ["stranger"])
    assert "findings from" in say(kept, "suspicious", "--from", "2026-01-01", "--to", "2026-01-02")
    assert "IANA" in say(kept, "suspicious", "--time-zone", "Elm/Street", exit_code=2)


def test_disclosures_are_accounted_for_and_their_words_stay_sealed_without_a_reason(kept: Kept) -> None:
    def told(*more: str) -> list[dict[str, object]]:
        lines: list[dict[str, object]] = json.loads(say(kept, "disclosures", str(kept.patient), "--json", *more))[
            "disclosures"
        ]
        return lines

    (written,) = told("--accountable")
    assert (written["kind"], written["recipient"], written["why"]) == ("accountable", "(sealed)", "(sealed)")
    opened = told("--accountable", "--unseal", "--as", "officer-1", "--because", "OPERATIONS")
    assert [line["recipient"] for line in opened] == ["=Health Office"]
    assert told()[-1]["what"] == "the accounting of disclosures"
    table = say(kept, "disclosures", str(kept.patient), "--unseal", "--as", "officer-1", "--because", "OPERATIONS")
    assert table.startswith("at,kind,recipient,")
    assert ",'=Health Office," in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "--from", "yesterday"], "is no day"),
        (["show", "--from", "2027-03-01T10:00:00"], "is no day"),
        (["show", "--name", "Nothing"], "no event is named"),
        (["show", "--purpose", "CURIOSITY"], "is not one of"),
        (["show", "--unseal"], "needs --as and --because"),
        (["show", "--as", "officer-1"], "go with --unseal"),
        (["show", "--unseal", "--as", "Jo Doe", "--because", "OPERATIONS"], "opaque id"),
        (["replay"], "--until"),
        (["replay", "--until", "soon"], "is no day"),
        (["replay", "--until", "1", "--provider", "0b8f7f0e-52f0-5c0d-9f65-4d1f4d2d8a11"], "go together"),
    ],
)
def test_wrong_usage_says_what_would_be_right(kept: Kept, arguments: list[str], words: str) -> None:
    assert words in say(kept, *arguments, exit_code=2)
