"""Each proof is checked by itself; what came of it is in the log; and nobody learns from outside who has an account."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from commands import addresses
from commands.accounts import AskReset, FollowLink, LockAccount, RegisterAccount, ResetFactors, UnlockAccount
from commands.loop import Desk
from commands.second_factors import (
    ConfirmTotp,
    EnrolTotp,
    MakeRecoveryCodes,
    RemoveTotp,
    SetMfaPolicy,
)
from commands.sign_in import CheckPassword, CheckRecoveryCode, CheckTotp, account_of
from domain import account, address
from domain.access import Role
from domain.account import (
    AlreadyEnrolled,
    CodeWrong,
    FactorNeeded,
    LinkPurpose,
    NotEnrolled,
    PasswordRehashed,
)
from domain.mfa_policy import Mfa
from domain.ports import Context, FixedClock, NewEvent, Save
from domain.refusals import NotAllowed, Unknown
from domain.step_up import StepUpRequired
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from tests.clinic import ORGANIZATION
from tests.people import OPERATOR, OTHER_PASSWORD, PASSWORD, People, QuickPasswords, credentials

NOW = datetime(2026, 3, 2, 9, 0, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
STEP = timedelta(seconds=30)


@pytest.fixture
def people(log: PostgresEventLog) -> People:
    clock = FixedClock(NOW)
    return People(Desk(log, clock, TimeOrderedIds(), PublicHolidays(), credentials=credentials()), clock)


def blind_stream(email: str) -> str:
    return address.stream(addresses.read(email).blind(credentials().blinds, ORGANIZATION))


async def test_the_right_password_is_accepted_and_recorded(people: People) -> None:
    ada = await people.patient()
    told = await people.sign_in()
    assert told["outcome"] == "accepted"
    assert told["account_id"] == str(ada.account_id)
    assert (told["second_factors"], told["must_enroll"]) == ([], False)
    assert told["era"] == (await people.account(ada.account_id)).era
    assert (await people.events(f"account/{ada.account_id}"))[-1] == "PasswordAccepted"
    who = account_of(await people.account(ada.account_id))
    assert (who.role, who.patient_id, who.active) == (Role.PATIENT, ada.patient_id, True)


async def test_a_password_typed_on_another_keyboard_is_the_same(people: People) -> None:
    """NIST SP 800-63B-4 §3.1.1.2: composed and decomposed letters make one password."""
    await people.patient(password="cafe\u0301 on the corner")
    assert (await people.sign_in(password="caf\u00e9 on the corner"))["outcome"] == "accepted"


async def test_an_unknown_address_hears_what_a_wrong_password_hears(people: People) -> None:
    await people.patient()
    passwords = people.desk.credentials.passwords
    assert isinstance(passwords, QuickPasswords)
    heard = []
    for email in ("ada@example.org", "nobody@example.org"):
        before, told = passwords.asked, []
        for _ in range(7):
            told.append(await people.sign_in(email, "not the password"))
            people.later(timedelta(seconds=1))
        heard.append((told, passwords.asked - before))
    assert heard[0] == heard[1]
    assert [one["outcome"] for one in heard[0][0]] == ["refused"] * 5 + ["locked"] * 2
    assert heard[0][1] == 5


async def test_a_wait_outlives_the_registration_of_an_address(people: People) -> None:
    """Who locks an address and then registers it would learn from the end of the wait that it was free."""
    await people.patient()
    heard = []
    for email in ("ada@example.org", "nobody@example.org"):
        told = [await people.sign_in(email, "not the password") for _ in range(6)]
        await people.asked(RegisterAccount(email=email))
        told += [await people.sign_in(email, "not the password") for _ in range(2)]
        people.later(2 * MINUTE)
        told += [await people.sign_in(email, "not the password") for _ in range(2)]
        heard.append(told)
    assert heard[0] == heard[1]
    assert [one["outcome"] for one in heard[0]] == ["refused"] * 5 + ["locked"] * 3 + ["refused", "locked"]
    # Its owner ends it, as at any address, by choosing a password.
    letter = (await people.asked(RegisterAccount(email="nobody@example.org")))["letter"]
    await people.asked(FollowLink(purpose=LinkPurpose.VERIFY, token=letter["token"], password=PASSWORD))
    assert (await people.sign_in("nobody@example.org"))["outcome"] == "accepted"


async def test_guesses_at_an_unknown_address_are_recorded_without_it(people: People) -> None:
    await people.sign_in("nobody@example.org", "not the password")
    stream = blind_stream("nobody@example.org")
    assert await people.events(stream) == ["UnknownAddressTried"]
    rows = await people.desk.log.read(0, 100)
    assert all("nobody" not in row.stream and "nobody" not in row.event.model_dump_json() for row in rows)


async def test_wrong_guesses_slow_the_next_down_more_and_more_up_to_an_hour(people: People) -> None:
    await people.patient()
    waits = []
    for _ in range(13):
        told = await people.sign_in(password="not the password")
        assert told["outcome"] == "refused"
        waits.append(told["retry_after"])
        people.later(timedelta(seconds=told["retry_after"] or 0))
    assert waits == [None] * 4 + [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


async def test_a_guess_that_is_not_looked_at_neither_helps_nor_prolongs(people: People) -> None:
    ada = await people.patient()
    for _ in range(5):
        await people.sign_in(password="not the password")
    for _ in range(3):
        people.later(timedelta(seconds=15))
        told = await people.sign_in()
        assert told["outcome"] == "locked"
        assert told["account_id"] is None
    people.later(timedelta(seconds=15))
    assert (await people.sign_in())["outcome"] == "accepted"
    # And the slate is clean.
    assert (await people.sign_in(password="not the password"))["retry_after"] is None
    assert (await people.events(f"account/{ada.account_id}")).count("SignInFailed") == 9


async def test_many_guesses_at_one_moment_are_counted_one_by_one(people: People) -> None:
    """However many ask at once, five are looked at."""
    ada = await people.patient()
    passwords = people.desk.credentials.passwords
    assert isinstance(passwords, QuickPasswords)
    before = passwords.asked
    told = await asyncio.gather(*(people.sign_in(password="not the password") for _ in range(30)))
    assert [one["outcome"] for one in told].count("refused") == 5
    assert passwords.asked - before == 5
    assert (await people.account(ada.account_id)).password_guard.failures == 5


async def test_two_processes_count_together(people: People) -> None:
    ada = await people.patient()
    other = People(replace_desk(people), people.clock)
    told = await asyncio.gather(*(one.sign_in(password="not the password") for one in [people, other] * 8))
    assert [one["outcome"] for one in told].count("refused") == 5
    assert (await people.account(ada.account_id)).password_guard.failures == 5


def replace_desk(people: People) -> Desk:
    """Another process's desk: the same log and keys, nothing cached."""
    desk = people.desk
    return Desk(desk.log, desk.clock, desk.ids, desk.holidays, credentials=credentials())


async def test_an_administrator_ends_what_wrong_guesses_brought_about(people: People) -> None:
    ada = await people.patient()
    for _ in range(5):
        await people.sign_in(password="not the password")
    assert (await people.sign_in())["outcome"] == "locked"
    await people.asked(UnlockAccount(account_id=ada.account_id), OPERATOR)
    assert (await people.sign_in())["outcome"] == "accepted"


async def test_a_reset_ends_what_wrong_guesses_brought_about(people: People) -> None:
    await people.patient()
    for _ in range(5):
        await people.sign_in(password="not the password")
    letter = (await people.asked(AskReset(email="ada@example.org")))["letter"]
    await people.asked(FollowLink(purpose=LinkPurpose.RESET, token=letter["token"], password=OTHER_PASSWORD))
    assert (await people.sign_in(password=OTHER_PASSWORD))["outcome"] == "accepted"


async def test_a_locked_account_hears_no_more_than_a_wrong_password(people: People) -> None:
    ada = await people.patient()
    await people.asked(LockAccount(account_id=ada.account_id), OPERATOR)
    right = await people.sign_in()
    assert right == await people.sign_in("nobody@example.org")
    assert right["outcome"] == "refused"


async def test_what_is_no_address_is_refused_like_a_wrong_password(people: People) -> None:
    passwords = people.desk.credentials.passwords
    assert isinstance(passwords, QuickPasswords)
    for email in ("", "ada", "аda@example.org", "x" * 900 + "@example.org"):
        before = passwords.asked
        assert (await people.sign_in(email))["outcome"] == "refused"
        assert passwords.asked == before + 1


async def test_a_hash_with_old_parameters_is_made_anew_at_the_next_sign_in(
    people: People, log: PostgresEventLog
) -> None:
    ada = await people.patient()
    assert ada.account_id is not None
    old = "v1$" + (await credentials().passwords.hash(PASSWORD))[3:]
    stream = account.stream(ada.account_id)
    version = len((await log.load(ORGANIZATION, {stream: 0}))[stream])
    event = NewEvent(stream, PasswordRehashed(account_id=ada.account_id, password_hash=old), NOW, uuid4())
    await log.append(Save(Context(ORGANIZATION, "test", uuid4(), uuid4()), {stream: version}, [event]))
    assert (await people.sign_in())["outcome"] == "accepted"
    assert (await people.account(ada.account_id)).password_hash == "v2$" + old[3:]
    assert (await people.account(ada.account_id)).era == 1


async def test_an_authenticator_app_is_asked_for_once_its_first_code_was_seen(people: People) -> None:
    ada = await people.patient()
    shown = await people.asked(EnrolTotp(), ada)
    assert shown["uri"].startswith("otpauth://totp/Daybook:ada%40example.org?secret=" + shown["secret"])
    assert (await people.sign_in())["second_factors"] == []
    with pytest.raises(CodeWrong):
        await people.asked(ConfirmTotp(code="000000"), ada)
    app = await people.with_totp(ada)
    assert (await people.sign_in())["second_factors"] == ["totp", "recovery"]
    people.later(STEP)
    told = await people.asked(CheckTotp(account_id=ada.account_id, code=people.code(app)))
    assert (told["outcome"], told["account_id"]) == ("accepted", str(ada.account_id))


async def test_an_app_in_use_is_not_replaced_by_one_that_was_only_shown(people: People) -> None:
    ada = await people.patient()
    await people.with_totp(ada)
    with pytest.raises(AlreadyEnrolled):
        await people.asked(EnrolTotp(), ada)


async def test_a_used_code_and_any_before_it_are_refused(people: People) -> None:
    """RFC 6238 §5.2."""
    ada = await people.patient()
    app = await people.with_totp(ada)
    at_enrolment = people.code(app)
    assert (await people.asked(CheckTotp(account_id=ada.account_id, code=at_enrolment)))["outcome"] == "refused"
    people.later(2 * STEP)
    now, before = people.code(app), people.code(app, -1)
    assert (await people.asked(CheckTotp(account_id=ada.account_id, code=now)))["outcome"] == "accepted"
    assert (await people.asked(CheckTotp(account_id=ada.account_id, code=now)))["outcome"] == "refused"
    assert (await people.asked(CheckTotp(account_id=ada.account_id, code=before)))["outcome"] == "refused"


@pytest.mark.parametrize(("steps", "outcome"), [(0, "accepted"), (-1, "accepted"), (-2, "refused"), (1, "refused")])
async def test_a_code_is_taken_one_step_late_at_most_and_never_early(people: People, steps: int, outcome: str) -> None:
    ada = await people.patient()
    app = await people.with_totp(ada)
    people.later(5 * STEP)
    told = await people.asked(CheckTotp(account_id=ada.account_id, code=people.code(app, steps)))
    assert told["outcome"] == outcome


async def test_one_code_lets_one_of_two_in(people: People) -> None:
    """Both ask at once, of two processes: the log decides."""
    ada = await people.patient()
    app = await people.with_totp(ada)
    people.later(STEP)
    other = People(replace_desk(people), people.clock)
    asked = CheckTotp(account_id=ada.account_id, code=people.code(app))
    told = await asyncio.gather(*(one.asked(asked) for one in [people, other] * 4))
    assert [one["outcome"] for one in told].count("accepted") == 1


async def test_guessing_codes_is_slowed_and_a_right_password_does_not_help(people: People) -> None:
    ada = await people.patient()
    app = await people.with_totp(ada)
    people.later(STEP)
    wrong = CheckTotp(account_id=ada.account_id, code="not a code")
    for _ in range(5):
        await people.sign_in()
        await people.asked(wrong)
    told = await people.asked(CheckTotp(account_id=ada.account_id, code=people.code(app)))
    assert (told["outcome"], told["retry_after"]) == ("locked", 60)
    people.later(timedelta(seconds=61))
    right = CheckTotp(account_id=ada.account_id, code=people.code(app))
    assert (await people.asked(right))["outcome"] == "accepted"


async def test_each_recovery_code_lets_in_once(people: People) -> None:
    ada = await people.patient()
    await people.with_totp(ada)
    codes = (await people.asked(MakeRecoveryCodes(), ada))["recovery_codes"]
    assert len(set(codes)) == 10
    for code in (codes[0], codes[3].upper().replace("-", " ")):
        told = [
            (await people.asked(CheckRecoveryCode(account_id=ada.account_id, code=code)))["outcome"] for _ in range(2)
        ]
        assert told == ["accepted", "refused"]
    fresh = (await people.asked(MakeRecoveryCodes(), ada))["recovery_codes"]
    old = CheckRecoveryCode(account_id=ada.account_id, code=codes[5])
    new = CheckRecoveryCode(account_id=ada.account_id, code=fresh[5])
    assert (await people.asked(old))["outcome"] == "refused"
    assert (await people.asked(new))["outcome"] == "accepted"


async def test_the_log_holds_no_secret_of_anybody(people: People, log: PostgresEventLog) -> None:
    """Neither as it stands nor in a form that could be tried out without the keys: everything personal is sealed."""
    ada = await people.patient()
    app = await people.with_totp(ada)
    codes = (await people.asked(MakeRecoveryCodes(), ada))["recovery_codes"]
    letter = (await people.asked(AskReset(email="ada@example.org")))["letter"]
    rows = await log._connections.fetch("SELECT stream, payload FROM events")  # type: ignore[attr-defined]
    everything = b"".join(bytes(payload) + stream.encode() for stream, payload in rows)
    state = await people.account(ada.account_id)
    for secret in (PASSWORD, app.secret, *codes, letter["token"], "ada@example.org", state.password_hash):
        assert str(secret).encode() not in everything


async def test_a_role_that_needs_a_second_factor_is_told_to_set_one_up(people: People) -> None:
    auditor = await people.staff(Role.AUDITOR)
    told = await people.sign_in("grace@example.org")
    assert (told["outcome"], told["must_enroll"]) == ("accepted", True)
    await people.with_totp(auditor)
    assert (await people.sign_in("grace@example.org"))["must_enroll"] is False
    with pytest.raises(FactorNeeded):
        await people.asked(RemoveTotp(), auditor)


async def test_an_administrator_takes_away_the_factors_of_somebody_who_lost_them(people: People) -> None:
    ada = await people.patient()
    with pytest.raises(NotEnrolled):
        await people.asked(ResetFactors(account_id=ada.account_id), OPERATOR)
    app = await people.with_totp(ada)
    era = (await people.account(ada.account_id)).era
    told = await people.asked(ResetFactors(account_id=ada.account_id), OPERATOR)
    assert (told["letter"]["kind"], told["letter"]["to"]) == ("factors_reset", "ada@example.org")
    assert (await people.sign_in())["second_factors"] == []
    people.later(STEP)
    assert (await people.asked(CheckTotp(account_id=ada.account_id, code=people.code(app))))["outcome"] == "refused"
    assert (await people.account(ada.account_id)).era == era + 1
    with pytest.raises(NotAllowed):
        await people.asked(ResetFactors(account_id=ada.account_id), ada)


async def test_an_administrator_sets_the_policy_of_each_role(people: People) -> None:
    ada = await people.patient()
    await people.with_totp(ada)
    told = await people.asked(SetMfaPolicy(roles={Role.PATIENT: Mfa.OFF}), OPERATOR)
    assert told["roles"]["patient"] == "off"
    assert told["roles"]["admin"] == "required"
    assert (await people.sign_in())["second_factors"] == []
    await people.asked(SetMfaPolicy(roles={Role.PATIENT: Mfa.REQUIRED}), OPERATOR)
    assert (await people.sign_in())["second_factors"] == ["totp", "recovery"]
    admin = await people.staff(Role.ADMIN, "root@example.org")
    people.later(11 * MINUTE)
    with pytest.raises(StepUpRequired):
        await people.asked(SetMfaPolicy(roles={Role.ADMIN: Mfa.OFF}), admin)
    with pytest.raises(NotAllowed):
        await people.asked(SetMfaPolicy(roles={Role.PATIENT: Mfa.OFF}), ada)


async def test_factors_of_ones_own_account_need_a_fresh_sign_in(people: People) -> None:
    ada = await people.patient()
    people.later(11 * MINUTE)
    with pytest.raises(StepUpRequired) as refused:
        await people.asked(EnrolTotp(), ada)
    assert refused.value.details == {"max_age": 600}
    await people.asked(EnrolTotp(), replace(ada, authenticated_at=people.clock.now()))
    with pytest.raises(NotAllowed):
        await people.asked(EnrolTotp(), replace(ada, account_id=None))


async def test_codes_of_an_unknown_account_are_unknown(people: People) -> None:
    with pytest.raises(Unknown):
        await people.asked(CheckTotp(account_id=UUID(int=7), code="123456"))


def test_a_password_stays_out_of_what_is_shown_of_a_command() -> None:
    command = CheckPassword(email="ada@example.org", password=PASSWORD)
    assert PASSWORD not in repr(command) + command.model_dump_json()
