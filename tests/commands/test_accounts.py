"""How an account comes to be, how its owner chooses a password, and what an administrator may do to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from commands.accounts import (
    AskReset,
    ChangePassword,
    ChangeRole,
    CloseAccount,
    CloseAccountOf,
    CloseOwnAccount,
    CreateAccount,
    FollowLink,
    InviteAccount,
    InviteAgain,
    LockAccount,
    RegisterAccount,
)
from commands.loop import Desk
from commands.patients import RegisterPatient
from commands.sign_in import account_of
from domain.access import Actor, Role
from domain.account import (
    AccountNotActive,
    AddressInUse,
    AddressNotTaken,
    ClosingReason,
    LinkEnded,
    LinkPurpose,
    PasswordTooWeak,
    PersonHasAccount,
    Status,
)
from domain.ports import FixedClock
from domain.refusals import Invalid, NotAllowed, Unknown
from domain.step_up import StepUpRequired
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import PostgresKeyring
from tests.clinic import ADMIN, DESK, ORGANIZATION
from tests.people import OPERATOR, OTHER_PASSWORD, PASSWORD, People, credentials

NOW = datetime(2026, 3, 2, 9, 0, 5, tzinfo=UTC)
ADA = "ada@example.org"


@pytest.fixture
def people(log: PostgresEventLog) -> People:
    clock = FixedClock(NOW)
    return People(Desk(log, clock, TimeOrderedIds(), PublicHolidays(), credentials=credentials()), clock)


def verify(token: str, password: str = PASSWORD) -> FollowLink:
    return FollowLink(purpose=LinkPurpose.VERIFY, token=token, password=password)


def reset(token: str, password: str = OTHER_PASSWORD) -> FollowLink:
    return FollowLink(purpose=LinkPurpose.RESET, token=token, password=password)


async def letter_to(people: People, command: RegisterAccount | AskReset) -> dict[str, str]:
    letter: dict[str, str] = (await people.asked(command))["letter"]
    return letter


async def test_a_patient_registers_follows_the_link_and_signs_in(people: People) -> None:
    letter = await letter_to(people, RegisterAccount(email="Ada@Example.org"))
    assert (letter["kind"], letter["to"]) == ("verify", "Ada@example.org")
    account_id = UUID((await people.asked(verify(letter["token"])))["account_id"])
    state = await people.account(account_id)
    assert (state.status, state.role) == (Status.ACTIVE, Role.PATIENT)
    assert await people.events(f"patient/{state.patient_id}") == ["PatientRegistered"]
    assert (await people.sign_in(ADA))["outcome"] == "accepted"


async def test_whoever_is_tied_to_a_known_patient_before_they_follow_the_link_gets_in(people: People) -> None:
    await letter_to(people, RegisterAccount(email=ADA))
    (name,) = await people.desk.log.streams(ORGANIZATION, "account/", "account/~")
    known = UUID((await people.asked(RegisterPatient(), OPERATOR))["patient_id"])
    account_id = UUID(name.partition("/")[2])
    await people.asked(ChangeRole(account_id=account_id, role=Role.PATIENT, patient_id=known), OPERATOR)
    letter = await letter_to(people, AskReset(email=ADA))
    await people.asked(verify(letter["token"]))
    assert (await people.account(account_id)).status is Status.ACTIVE
    assert await people.events(f"patient/{known}") == ["PatientRegistered"]
    assert (await people.sign_in(ADA))["outcome"] == "accepted"


async def test_no_patient_is_registered_for_an_address_that_nobody_proved(people: People) -> None:
    await letter_to(people, RegisterAccount(email=ADA))
    rows = await people.desk.log.read(0, 100)
    assert "patient" not in {row.stream.partition("/")[0] for row in rows}


async def test_an_address_that_is_taken_gets_a_letter_and_nothing_else_changes(people: People) -> None:
    ada = await people.patient()
    letter = await letter_to(people, RegisterAccount(email="ADA@example.org"))
    assert letter == {"kind": "taken", "to": ADA, "token": None}
    assert (await people.sign_in())["outcome"] == "accepted"
    assert (await people.events(f"account/{ada.account_id}"))[-2] == "AddressTakenAgain"


@pytest.mark.parametrize("command", [RegisterAccount, AskReset])
async def test_the_work_does_not_tell_whether_an_address_is_known(
    people: People, monkeypatch: pytest.MonkeyPatch, command: type[RegisterAccount | AskReset]
) -> None:
    """Counted, not timed: what is read, saved, looked up and made before the answer."""
    await people.patient(ADA)
    await people.asked(RegisterAccount(email="grace@example.org"))
    done: Counter[str] = Counter()
    for kind, name in (
        (PostgresEventLog, "load"),
        (PostgresEventLog, "append"),
        (PostgresKeyring, "_look_up"),
        (PostgresKeyring, "_make"),
    ):
        monkeypatch.setattr(kind, name, counted(getattr(kind, name), name, done))
    desk, work = people.desk, []
    for email in (ADA, "grace@example.org", "nobody@example.org"):
        done.clear()
        # Nothing cached, as at a desk that has not met them.
        anew = Desk(desk.log, desk.clock, desk.ids, desk.holidays, credentials=credentials())
        await People(anew, people.clock).asked(command(email=email))
        work.append(dict(done))
    assert work[0] == work[1] == work[2]


def counted(method: Any, name: str, done: Counter[str]) -> Any:
    async def counting(*arguments: Any, **named: Any) -> Any:
        done[name] += 1
        return await method(*arguments, **named)

    return counting


@pytest.mark.parametrize("email", ["\u0430\u0501\u0430@example.org", "\u0430d\u0430@example.org", "ⅾda@example.org"])
async def test_a_look_alike_never_stands_beside_an_address(people: People, email: str) -> None:
    """Unicode TR 39 §4. The letter goes to the owner, never to where the look-alike leads."""
    await people.patient("ada@example.org")
    await people.patient("dda@example.org")
    try:
        letter = await letter_to(people, RegisterAccount(email=email))
    except AddressNotTaken:
        return
    assert letter["kind"] == "taken"
    assert letter["to"] in ("ada@example.org", "dda@example.org")
    with pytest.raises(AddressInUse):
        await people.asked(InviteAccount(email=email, role=Role.FRONT_DESK), ADMIN)


async def test_two_who_register_one_address_at_once_make_one_account(people: People) -> None:
    """Of two processes: the log decides."""
    desk = people.desk
    other = People(Desk(desk.log, desk.clock, desk.ids, desk.holidays, credentials=credentials()), people.clock)
    told = await asyncio.gather(*(one.asked(RegisterAccount(email=ADA)) for one in [people, other] * 6))
    assert len({one["account_id"] for one in told}) == 1


async def test_whoever_registers_anothers_address_gains_nothing_when_the_owner_confirms(people: People) -> None:
    """The owner alone chooses the password, behind the link; nobody has one before."""
    await letter_to(people, RegisterAccount(email=ADA))
    assert (await people.sign_in())["outcome"] == "refused"
    letter = await letter_to(people, RegisterAccount(email=ADA))
    await people.asked(verify(letter["token"]))
    assert (await people.sign_in())["outcome"] == "accepted"


async def test_a_link_is_good_once(people: People) -> None:
    letter = await letter_to(people, RegisterAccount(email=ADA))
    await people.asked(verify(letter["token"]))
    with pytest.raises(LinkEnded):
        await people.asked(verify(letter["token"], OTHER_PASSWORD))


async def test_a_link_used_twice_at_one_moment_is_good_once(people: People) -> None:
    letter = await letter_to(people, RegisterAccount(email=ADA))
    asked = [people.asked(verify(letter["token"], f"{PASSWORD} {number}")) for number in range(5)]
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(one, LinkEnded) for one in told) == 4


async def test_a_newer_link_ends_an_older_one(people: People) -> None:
    older = await letter_to(people, RegisterAccount(email=ADA))
    newer = await letter_to(people, AskReset(email=ADA))
    assert newer["kind"] == "verify"
    with pytest.raises(LinkEnded):
        await people.asked(verify(older["token"]))
    await people.asked(verify(newer["token"]))


@pytest.mark.parametrize(("purpose", "good_for"), [("verify", timedelta(days=3)), ("reset", timedelta(hours=1))])
async def test_a_link_expires(people: People, purpose: str, good_for: timedelta) -> None:
    if purpose == "reset":
        await people.patient()
    letter = await letter_to(people, AskReset(email=ADA) if purpose == "reset" else RegisterAccount(email=ADA))
    people.later(good_for)
    with pytest.raises(LinkEnded):
        await people.asked(FollowLink(purpose=LinkPurpose(purpose), token=letter["token"], password=OTHER_PASSWORD))


async def test_a_link_is_good_for_its_purpose_and_its_account_alone(people: People) -> None:
    await people.patient()
    await people.patient("grace@example.org")
    letter = await letter_to(people, AskReset(email=ADA))
    other = await letter_to(people, AskReset(email="grace@example.org"))
    with pytest.raises(LinkEnded):
        await people.asked(verify(letter["token"]))
    for token in ("", "?", "é", letter["token"][:-1], letter["token"][:22] + other["token"][22:], "A" * 200):
        with pytest.raises(LinkEnded):
            await people.asked(reset(token))
    await people.asked(reset(letter["token"]))


async def test_a_reset_tells_the_owner_and_ends_the_old_password(people: People) -> None:
    ada = await people.patient()
    era = (await people.account(ada.account_id)).era
    letter = await letter_to(people, AskReset(email=ADA))
    told = await people.asked(reset(letter["token"]))
    assert (told["letter"]["kind"], told["letter"]["to"]) == ("password_changed", ADA)
    assert (await people.sign_in())["outcome"] == "refused"
    assert (await people.sign_in(password=OTHER_PASSWORD))["outcome"] == "accepted"
    # Sessions of earlier eras are over.
    assert (await people.account(ada.account_id)).era == era + 1


async def test_a_reset_for_an_unknown_address_is_recorded_and_writes_to_nobody(people: People) -> None:
    answer = await people.answer(AskReset(email="nobody@example.org"))
    assert answer.content.get("letter") is None
    assert answer.position > 0


@pytest.mark.parametrize(
    ("password", "because"),
    [
        ("short", "short"),
        ("elevenchars", "short"),
        ("aaaaaaaaaaaaaaaaaa", "common"),
        ("qwertyqwerty", "common"),
        ("ada.lovelace1!", "guessable"),
        ("daybook-daybook", "guessable"),
    ],
)
async def test_a_password_that_would_be_guessed_is_refused_and_the_link_stays_good(
    people: People, password: str, because: str
) -> None:
    letter = await letter_to(people, RegisterAccount(email="ada.lovelace@example.org"))
    with pytest.raises(PasswordTooWeak) as refused:
        await people.asked(verify(letter["token"], password))
    assert refused.value.details == {"because": because}
    assert password not in refused.value.message
    await people.asked(verify(letter["token"]))


@pytest.mark.parametrize(
    "password",
    ["violet anvil seventeen", "天気がとても良いので散歩する", "x" * 100 + "yz1 q", "🐎🔋📎✅🌊🎻🧭🪵🧲🫖🪁🧊"],
)
async def test_any_other_long_password_is_taken_whatever_it_is_made_of(people: People, password: str) -> None:
    await people.patient(password=password)
    assert (await people.sign_in(password=password))["outcome"] == "accepted"


async def test_a_change_asks_for_the_present_password_and_counts_guesses_at_it(people: People) -> None:
    ada = await people.patient()
    wrong = ChangePassword(present="not the password", password=OTHER_PASSWORD)
    assert [(await people.asked(wrong, ada))["outcome"] for _ in range(6)] == ["refused"] * 5 + ["locked"]
    people.later(timedelta(seconds=61))
    told = await people.asked(ChangePassword(present=PASSWORD, password=OTHER_PASSWORD), ada)
    assert (told["outcome"], told["letter"]["kind"]) == ("accepted", "password_changed")
    assert (await people.sign_in(password=OTHER_PASSWORD))["outcome"] == "accepted"


async def test_staff_are_invited_and_choose_a_password_behind_the_link(people: People) -> None:
    admin = await people.staff(Role.ADMIN, "root@example.org")
    told = await people.asked(InviteAccount(email="desk@example.org", role=Role.FRONT_DESK), admin)
    assert told["letter"]["kind"] == "invitation"
    await people.asked(verify(told["letter"]["token"]))
    state = await people.account(UUID(told["account_id"]))
    assert account_of(state).role is Role.FRONT_DESK
    with pytest.raises(AccountNotActive):
        await people.asked(InviteAgain(account_id=state.id), admin)


async def test_an_invitation_that_was_lost_is_sent_again(people: People) -> None:
    told = await people.asked(InviteAccount(email="desk@example.org", role=Role.FRONT_DESK), ADMIN)
    again = await people.asked(InviteAgain(account_id=UUID(told["account_id"])), ADMIN)
    with pytest.raises(LinkEnded):
        await people.asked(verify(told["letter"]["token"]))
    await people.asked(verify(again["letter"]["token"]))


async def test_the_front_desk_invites_patients_who_are_known_and_nobody_else(people: People) -> None:
    patient_id = UUID((await people.asked(RegisterPatient(), DESK))["patient_id"])
    invitation = InviteAccount(email=ADA, role=Role.PATIENT, patient_id=patient_id)
    await people.asked(invitation, DESK)
    with pytest.raises(PersonHasAccount):
        await people.asked(invitation.model_copy(update={"email": "other@example.org"}), DESK)
    with pytest.raises(Unknown):
        await people.asked(InviteAccount(email="x@example.org", role=Role.PATIENT, patient_id=uuid4()), DESK)
    with pytest.raises(NotAllowed):
        await people.asked(InviteAccount(email="x@example.org", role=Role.ADMIN), DESK)


@pytest.mark.parametrize(
    "who", [{"role": Role.PATIENT}, {"role": Role.ADMIN, "patient_id": uuid4()}, {"role": Role.SYSTEM}]
)
async def test_role_and_person_go_together(people: People, who: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        await people.asked(CreateAccount(email=ADA, password=PASSWORD, **who), OPERATOR)


async def test_a_change_of_role_ends_what_was_begun_in_the_old_one(people: People) -> None:
    grace = await people.staff(Role.FRONT_DESK)
    admin = await people.staff(Role.ADMIN, "root@example.org")
    await people.asked(ChangeRole(account_id=grace.account_id, role=Role.AUDITOR), admin)
    state = await people.account(grace.account_id)
    assert (state.role, state.era) == (Role.AUDITOR, 2)


async def test_nobody_changes_their_own_role_or_locks_themselves_out(people: People) -> None:
    admin = await people.staff(Role.ADMIN, "root@example.org")
    for command in (
        ChangeRole(account_id=admin.account_id, role=Role.AUDITOR),
        LockAccount(account_id=admin.account_id),
    ):
        with pytest.raises(NotAllowed):
            await people.asked(command, admin)


async def test_dangerous_commands_need_a_fresh_sign_in(people: People) -> None:
    grace = await people.staff(Role.FRONT_DESK)
    admin = await people.staff(Role.ADMIN, "root@example.org")
    stale = replace(admin, authenticated_at=people.clock.now() - timedelta(minutes=11))
    for command in (
        ChangeRole(account_id=grace.account_id, role=Role.ADMIN),
        LockAccount(account_id=grace.account_id),
        CloseAccount(account_id=grace.account_id),
        InviteAccount(email=ADA, role=Role.ADMIN),
    ):
        with pytest.raises(StepUpRequired):
            await people.asked(command, stale)


@pytest.mark.parametrize("role", [role for role in Role if role not in (Role.ADMIN, Role.SYSTEM)])
async def test_only_administrators_manage_accounts(people: People, role: Role) -> None:
    ada = await people.patient()
    with pytest.raises(NotAllowed):
        await people.asked(LockAccount(account_id=ada.account_id), Actor("somebody", role))


async def test_a_closed_account_is_over_and_its_address_free(people: People) -> None:
    ada = await people.patient()
    await people.asked(CloseOwnAccount(), ada)
    assert (await people.sign_in())["outcome"] == "refused"
    with pytest.raises(AccountNotActive):
        await people.asked(CloseOwnAccount(), ada)
    again = await people.patient()
    assert again.account_id != ada.account_id
    assert again.patient_id != ada.patient_id
    assert (await people.sign_in())["account_id"] == str(again.account_id)


async def test_erasing_a_patient_closes_the_account_that_acts_as_them(people: People) -> None:
    ada = await people.patient()
    assert ada.patient_id is not None
    told = await people.asked(CloseAccountOf(person_id=ada.patient_id), OPERATOR)
    assert told == {"account_id": str(ada.account_id)}
    assert (await people.account(ada.account_id)).status is Status.CLOSED
    assert await people.asked(CloseAccountOf(person_id=ada.patient_id), OPERATOR) == {"account_id": None}
    closed = (await people.desk.log.load("elm-street", {f"account/{ada.account_id}": 0}))[f"account/{ada.account_id}"]
    assert getattr(closed[-1].event, "reason", None) is ClosingReason.PERSON_ERASED
