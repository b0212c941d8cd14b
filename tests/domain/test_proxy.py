"""Who stands in for a patient: what may be granted, and when it ends."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given as always
from hypothesis import strategies as st

from domain import proxy
from domain.appointment import Party
from domain.proxy import Allowance, AlreadyEnded, Basis, EndReason, ProxyEnded, ProxyGranted, TooManyProxies
from domain.refusals import Invalid, NotAllowed, Unknown
from tests.domain.clinic import ANNA, BEN, uid
from tests.given import Book, Decision, Given

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
YEAR = timedelta(days=365)
CARER = uid(5)


def granting(number: int = 1, **changes: Any) -> Decision:
    said = {
        "patient_id": ANNA,
        "proxy_id": uid(number),
        "account_id": CARER,
        "proxy_patient_id": None,
        "basis": Basis.CONSENT,
        "allows": frozenset(Allowance),
        "until": NOW + YEAR,
        "by": Party.PATIENT,
        **changes,
    }
    return lambda book: proxy.grant(book.states.get(proxy.stream(ANNA)), now=book.now, **said)


def ending(number: int = 1, reason: EndReason = EndReason.WITHDRAWN) -> Decision:
    def decide(book: Book) -> ProxyEnded:
        found = proxy.of(book.states.get(proxy.stream(ANNA)), uid(number))
        return proxy.end(ANNA, found, reason, Party.PATIENT, book.now)

    return decide


nobody = Given(Book(NOW))


def test_a_patient_lets_somebody_stand_in_from_now_to_an_end() -> None:
    (granted,) = nobody.when(granting()).then(ProxyGranted).events
    assert (granted.period.start, granted.period.end, granted.allows) == (NOW, NOW + YEAR, ("book", "read"))


@pytest.mark.parametrize("basis", [Basis.PARENT_OF_MINOR, Basis.GUARDIAN, Basis.POWER_OF_ATTORNEY])
def test_what_holds_by_law_is_for_the_clinic_to_say(basis: Basis) -> None:
    nobody.when(granting(basis=basis)).refused(NotAllowed)
    nobody.when(granting(basis=basis, by=Party.FRONT_DESK)).then(ProxyGranted)


@pytest.mark.parametrize("until", [NOW, NOW - timedelta(seconds=1), NOW + proxy.LONGEST + timedelta(seconds=1)])
def test_a_proxy_has_an_end_that_comes_and_is_not_too_far(until: datetime) -> None:
    nobody.when(granting(until=until)).refused(Invalid)


@pytest.mark.parametrize(
    "who",
    [
        {"account_id": None},
        {"proxy_patient_id": BEN},
        {"account_id": None, "proxy_patient_id": ANNA},
    ],
)
def test_a_proxy_is_one_other_person(who: dict[str, Any]) -> None:
    nobody.when(granting(**who)).refused(Invalid)


def test_an_ended_proxy_is_not_ended_again() -> None:
    over = nobody.when(granting()).and_then().when(ending()).then(ProxyEnded).and_then()
    over.when(ending()).refused(AlreadyEnded)
    nobody.when(granting()).and_then().at(NOW + YEAR).when(ending()).refused(AlreadyEnded)
    nobody.when(granting()).and_then().when(ending(2)).refused(Unknown)
    nobody.when(ending()).refused(Unknown)


def test_there_are_not_any_number_of_them() -> None:
    story = nobody
    for number in range(proxy.MOST):
        story = story.when(granting(number)).and_then()
    story.when(granting(99)).refused(TooManyProxies, most=proxy.MOST)
    story.when(ending(7)).and_then().when(granting(99)).then(ProxyGranted)
    story.at(NOW + YEAR).when(granting(99, until=NOW + 2 * YEAR)).then(ProxyGranted)


@always(st.integers(1, 1000), st.one_of(st.none(), st.integers(0, 1000)), st.integers(-10, 1010))
def test_a_proxy_holds_between_its_start_and_whichever_end_is_first(length: int, ended: int | None, asked: int) -> None:
    """Minutes: how long it was granted for, when it was ended, if it was, and when somebody asks."""
    minute = timedelta(minutes=1)
    story = nobody.when(granting(until=NOW + length * minute)).and_then()
    if ended is not None and ended < length and ended <= asked:
        story = story.at(NOW + ended * minute).when(ending()).and_then()
        end = ended
    else:
        end = length
    state = story.book.states[proxy.stream(ANNA)]
    holds = proxy.stands_in(state, CARER, None, Allowance.READ, NOW + asked * minute)
    assert holds is (0 <= asked < end)
