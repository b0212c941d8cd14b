"""Who may do what: the table, its scopes, and what each relationship reaches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import glass, proxy
from domain.access import (
    PLAIN,
    POLICY,
    Actor,
    InsufficientScope,
    Reach,
    Role,
    Standing,
    Tie,
    Ties,
    Whose,
    may,
    reached,
    require,
    undecided,
)
from domain.appointment import Party
from domain.glass import GlassReason
from domain.proxy import Allowance, Basis, EndReason, Proxies
from domain.refusals import NotAllowed, Unknown
from domain.scopes import LETTERS
from tests.domain.clinic import ANNA, BEN, COLLEAGUE, DOCTOR, uid

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

anna = Actor("anna", Role.PATIENT, patient_id=ANNA)
ben = Actor("ben", Role.PATIENT, patient_id=BEN)
doctor = Actor("doctor", Role.PROVIDER, provider_id=DOCTOR)

BOOK = {"hold_appointment", "book_appointment", "book_series", "move_appointment", "cancel_appointment"}


def proxies(who: dict[str, Any] | None = None, *allows: Allowance, until: timedelta = 10 * MINUTE) -> Proxies:
    """Somebody stands in for Anna: Ben, where nobody else is named."""
    granted = proxy.grant(
        None,
        patient_id=ANNA,
        proxy_id=uid(1),
        **({"account_id": None, "proxy_patient_id": BEN} if who is None else who),
        basis=Basis.CONSENT,
        allows=frozenset(allows or Allowance),
        until=NOW + until,
        by=Party.PATIENT,
        now=NOW,
    )
    return proxy.evolve(None, granted)


def test_a_patient_reaches_what_is_their_own_and_no_more_than_profiles_besides() -> None:
    reaches = {what: rule.reach[Role.PATIENT] for what, rule in POLICY.items() if Role.PATIENT in rule.reach}
    everybodys = {what for what, reach in reaches.items() if reach not in (Reach.OWN, Reach.SELF)}
    assert everybodys == {"read_provider"}
    assert {what for what in BOOK if reaches.get(what) is Reach.OWN} == BOOK


def test_auditors_and_analysts_change_nothing_but_what_is_theirs_alone() -> None:
    for role in (Role.AUDITOR, Role.ANALYST):
        beyond = {what for what, rule in POLICY.items() if rule.reach.get(role) not in (None, Reach.SELF)}
        assert {what for what in beyond if not what.startswith("read_")} == set()
    assert beyond == {"read_figures"}


def test_what_a_provider_reaches_of_patients_is_bounded_to_their_own() -> None:
    """But for finding somebody: without it no glass could be broken for them."""
    everybodys = {
        what for what, rule in POLICY.items() if rule.personal and rule.reach.get(Role.PROVIDER) is Reach.CLINIC
    }
    assert everybodys <= {"search_patients"}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("what", sorted(POLICY))
def test_each_role_reaches_what_the_table_says_and_no_more(role: Role, what: str) -> None:
    actor = Actor("somebody", role)
    assert may(actor, what) is (role in POLICY[what].reach)
    if may(actor, what):
        assert require(actor, what) is POLICY[what].reach[role]
    else:
        with pytest.raises(NotAllowed) as refused:
            require(actor, what)
        assert refused.value.details == {"action": what}


# Scopes


def scoped(role: Role, *words: str) -> Actor:
    return Actor("somebody", role, scopes=frozenset(words))


@pytest.mark.parametrize(
    ("role", "word", "reached"),
    [
        (Role.PATIENT, "patient/Appointment.c", True),
        (Role.PATIENT, "user/Appointment.c", True),
        (Role.PATIENT, "patient/*.cruds", True),
        (Role.PATIENT, "patient/Appointment.write", True),
        (Role.PATIENT, "patient/Appointment.*", True),
        (Role.PATIENT, "patient/Appointment.rs", False),
        (Role.PATIENT, "patient/Patient.cruds", False),
        (Role.PATIENT, "system/*.cruds", False),
        (Role.PATIENT, "patient/Appointment.c?status=booked", False),
        (Role.FRONT_DESK, "user/Appointment.c", True),
        (Role.FRONT_DESK, "patient/*.cruds", False),
        (Role.FRONT_DESK, "openid", False),
        (Role.SYSTEM, "system/*.c", True),
        (Role.SYSTEM, "user/*.c", False),
    ],
)
def test_a_token_reaches_no_further_than_its_scopes(role: Role, word: str, reached: bool) -> None:
    assert may(scoped(role, word), "book_appointment") is reached


def test_a_token_that_lacks_a_scope_is_told_which() -> None:
    with pytest.raises(InsufficientScope) as refused:
        require(scoped(Role.PATIENT, "patient/Appointment.rs"), "book_appointment")
    assert refused.value.details == {"action": "book_appointment", "scope": "patient/Appointment.c"}
    with pytest.raises(NotAllowed):
        require(scoped(Role.ANALYST, "user/*.cruds"), "book_appointment")


@given(
    st.sampled_from(Role),
    st.sets(st.sampled_from(LETTERS)),
    st.sampled_from(["patient", "user", "system"]),
    st.sampled_from(["*", "Appointment", "Patient", "Schedule"]),
)
def test_a_scope_never_widens_what_the_role_reaches(role: Role, letters: set[str], context: str, kind: str) -> None:
    told = "".join(letter for letter in LETTERS if letter in letters)
    bounded, whole = scoped(role, f"{context}/{kind}.{told}"), Actor("somebody", role)
    for what, rule in POLICY.items():
        if may(bounded, what):
            assert may(whole, what)
            assert rule.scope is None or (rule.scope[-1] in letters and kind in ("*", rule.scope[:-2]))


@given(st.text(max_size=40))
def test_whatever_a_scope_says_it_is_read_without_a_fault(word: str) -> None:
    may(scoped(Role.PATIENT, word), "book_appointment")


# Relationships


def test_a_patient_reaches_their_own_without_a_look_into_the_log() -> None:
    assert undecided(anna, "read_appointment", Whose(ANNA, DOCTOR)) == frozenset()
    assert reached(anna, "read_appointment", Whose(ANNA, DOCTOR), Ties(), NOW) == PLAIN


def test_another_patient_reads_as_unknown_under_the_id_that_was_asked_for() -> None:
    whose = Whose(ANNA, DOCTOR, named=uid(7))
    for stranger in (ben, Actor("nobody", Role.PATIENT)):
        assert undecided(stranger, "read_appointment", whose) == {Tie.PROXY}
        with pytest.raises(Unknown) as refused:
            reached(stranger, "read_appointment", whose, Ties(), NOW)
        assert refused.value.details == {"id": str(uid(7))}


def test_a_proxy_stands_in_from_the_start_to_the_end_and_no_moment_longer() -> None:
    ties = Ties(proxies())
    for_anna = Standing(on_behalf_of=ANNA)
    assert reached(ben, "book_appointment", Whose(ANNA), ties, NOW) == for_anna
    assert reached(ben, "book_appointment", Whose(ANNA), ties, NOW + 10 * MINUTE - timedelta.resolution) == for_anna
    for moment in (NOW - timedelta.resolution, NOW + 10 * MINUTE):
        with pytest.raises(Unknown):
            reached(ben, "book_appointment", Whose(ANNA), ties, moment)


def test_a_proxy_that_was_ended_is_over_at_once() -> None:
    state = proxies()
    state = proxy.evolve(state, proxy.end(ANNA, proxy.of(state, uid(1)), EndReason.WITHDRAWN, Party.PATIENT, NOW))
    with pytest.raises(Unknown):
        reached(ben, "read_appointment", Whose(ANNA), Ties(state), NOW)


def test_a_proxy_does_what_it_was_given_for() -> None:
    reads, books = Ties(proxies(None, Allowance.READ)), Ties(proxies(None, Allowance.BOOK))
    assert reached(ben, "read_appointment", Whose(ANNA), reads, NOW).on_behalf_of == ANNA
    assert reached(ben, "cancel_appointment", Whose(ANNA), books, NOW).on_behalf_of == ANNA
    with pytest.raises(Unknown):
        reached(ben, "cancel_appointment", Whose(ANNA), reads, NOW)
    with pytest.raises(Unknown):
        reached(ben, "read_appointment", Whose(ANNA), books, NOW)


def test_a_proxy_is_an_account_where_one_is_named() -> None:
    ties = Ties(proxies({"account_id": uid(5), "proxy_patient_id": None}))
    carer = Actor("carer", Role.PATIENT, account_id=uid(5))
    assert reached(carer, "read_appointment", Whose(ANNA), ties, NOW).on_behalf_of == ANNA
    for other in (Actor("other", Role.PATIENT, account_id=uid(6)), Actor("nobody", Role.PATIENT), ben):
        with pytest.raises(Unknown):
            reached(other, "read_appointment", Whose(ANNA), ties, NOW)


def test_an_app_that_was_let_into_ones_own_record_is_not_let_into_those_one_stands_in_for() -> None:
    own, all_of_theirs = (
        Actor("ben", Role.PATIENT, patient_id=BEN, scopes=frozenset({f"{context}/*.cruds"}))
        for context in ("patient", "user")
    )
    assert reached(own, "read_appointment", Whose(BEN), Ties(), NOW) == PLAIN
    with pytest.raises(InsufficientScope) as refused:
        reached(own, "read_appointment", Whose(ANNA), Ties(proxies()), NOW)
    assert refused.value.details["scope"] == "user/Appointment.r"
    assert reached(all_of_theirs, "read_appointment", Whose(ANNA), Ties(proxies()), NOW).on_behalf_of == ANNA
    with pytest.raises(Unknown):
        reached(own, "read_appointment", Whose(ANNA), Ties(), NOW)


def test_a_proxy_names_no_further_proxy() -> None:
    assert undecided(ben, "grant_proxy", Whose(ANNA)) == frozenset()
    with pytest.raises(Unknown):
        reached(ben, "grant_proxy", Whose(ANNA), Ties(proxies()), NOW)


def test_a_provider_reaches_visits_with_them_and_patients_of_their_own() -> None:
    assert undecided(doctor, "read_appointment", Whose(ANNA, DOCTOR)) == frozenset()
    assert reached(doctor, "read_appointment", Whose(ANNA, DOCTOR), Ties(), NOW) == PLAIN
    assert undecided(doctor, "read_appointment", Whose(ANNA, COLLEAGUE)) == {Tie.CARE, Tie.GLASS}
    assert reached(doctor, "read_appointment", Whose(ANNA, COLLEAGUE), Ties(in_care=True), NOW) == PLAIN
    for ties in (Ties(), Ties(proxies=proxies())):
        with pytest.raises(Unknown):
            reached(doctor, "read_appointment", Whose(ANNA, COLLEAGUE), ties, NOW)
    with pytest.raises(Unknown):
        reached(Actor("nobody", Role.PROVIDER), "read_appointment", Whose(ANNA, COLLEAGUE), Ties(), NOW)


persons = st.one_of(st.none(), st.sampled_from([ANNA, BEN]))
doctors = st.one_of(st.none(), st.sampled_from([DOCTOR, COLLEAGUE]))
accounts = st.one_of(st.none(), st.sampled_from([uid(5), uid(6)]))


@given(
    st.builds(Actor, st.just("somebody"), st.sampled_from(Role), persons, doctors, accounts),
    st.sampled_from(sorted(POLICY)),
    st.builds(Whose, persons, doctors, accounts),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_what_need_not_be_looked_up_changes_nothing(
    actor: Actor, what: str, whose: Whose, stands_in: bool, broken: bool, in_care: bool
) -> None:
    """Only the ties that are said to be undecided are looked up; no other one may decide."""
    state = glass.evolve(None, glass.break_(ANNA, GlassReason.EMERGENCY, "Unconscious.", NOW))
    ties = Ties(proxies() if stands_in else None, state if broken else None, in_care)

    def told(ties: Ties) -> Any:
        try:
            return reached(actor, what, whose, ties, NOW)
        except (NotAllowed, Unknown) as refusal:
            return refusal.code

    try:
        wanted = undecided(actor, what, whose)
    except NotAllowed:
        assert told(ties) == told(Ties()) == "not_allowed"
        return
    looked_up = Ties(
        ties.proxies if Tie.PROXY in wanted else None,
        ties.glass if Tie.GLASS in wanted else None,
        ties.in_care and Tie.CARE in wanted,
    )
    assert told(looked_up) == told(ties)


def test_a_broken_glass_reaches_for_half_an_hour() -> None:
    broken = glass.break_(ANNA, GlassReason.EMERGENCY, "Found unconscious in the waiting room.", NOW)
    ties = Ties(glass=glass.evolve(None, broken))
    for moment in (NOW, NOW + 30 * MINUTE - timedelta.resolution):
        assert reached(doctor, "read_patient", Whose(ANNA), ties, moment) == Standing(behind_glass=True)
    with pytest.raises(Unknown):
        reached(doctor, "read_patient", Whose(ANNA), ties, NOW + 30 * MINUTE)


def test_a_provider_manages_their_own_book() -> None:
    assert reached(doctor, "publish_hours", Whose(provider_id=DOCTOR), Ties(), NOW) == PLAIN
    for other in (Actor("colleague", Role.PROVIDER, provider_id=COLLEAGUE), Actor("nobody", Role.PROVIDER)):
        with pytest.raises(NotAllowed):
            reached(other, "publish_hours", Whose(provider_id=DOCTOR), Ties(), NOW)
    assert reached(Actor("desk", Role.FRONT_DESK), "publish_hours", Whose(provider_id=DOCTOR), Ties(), NOW) == PLAIN
    assert reached(doctor, "block_time", Whose(), Ties(), NOW) == PLAIN


def test_a_clinics_staff_reach_everybody() -> None:
    for role in (Role.FRONT_DESK, Role.ADMIN, Role.SYSTEM):
        assert undecided(Actor("somebody", role), "book_appointment", Whose(ANNA)) == frozenset()
        assert reached(Actor("somebody", role), "book_appointment", Whose(ANNA), Ties(), NOW) == PLAIN


@pytest.mark.parametrize(
    ("role", "party"),
    [
        (Role.PATIENT, Party.PATIENT),
        (Role.PROVIDER, Party.PROVIDER),
        (Role.FRONT_DESK, Party.FRONT_DESK),
        (Role.ADMIN, Party.FRONT_DESK),
        (Role.SYSTEM, Party.SYSTEM),
    ],
)
def test_the_record_names_the_party_that_asked(role: Role, party: Party) -> None:
    assert Actor("somebody", role).party is party
