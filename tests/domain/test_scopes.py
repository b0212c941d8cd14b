"""How far a token reaches: no further than what was asked for, and no further than what is allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.scopes import LETTERS, PLAIN, granted, known, parse

RESOURCES = ("*", "Appointment", "Patient", "Slot")
letters = st.sets(st.sampled_from(LETTERS), min_size=1).map(lambda some: "".join(sorted(some, key=LETTERS.index)))
about_resources = st.builds(
    lambda context, resource, may: f"{context}/{resource}.{may}",
    st.sampled_from(("patient", "user", "system")),
    st.sampled_from(RESOURCES),
    letters,
)
words = st.lists(about_resources | st.sampled_from(sorted(PLAIN)), max_size=6)


def reach(told: list[str] | tuple[str, ...]) -> set[tuple[str, str, str]]:
    """Everything that some scopes allow, resource by resource."""
    found = set()
    for word in told:
        if (scope := parse(word)) is not None:
            resources = (*RESOURCES[1:], "Another") if scope.resource == "*" else (scope.resource,)
            found |= {(scope.context, resource, letter) for resource in resources for letter in scope.letters}
        else:
            found.add((word, "", ""))
    return found


@given(words, words)
def test_what_is_granted_is_exactly_what_is_both_wanted_and_allowed(wanted: list[str], allowed: list[str]) -> None:
    assert reach(granted(wanted, allowed)) == reach(wanted) & reach(allowed)


@given(words)
def test_a_grant_is_granted_whole_again(wanted: list[str]) -> None:
    once = granted(wanted, wanted)
    assert granted(once, once) == once


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("patient/Appointment.read", "patient/Appointment.rs"),
        ("user/*.write", "user/*.cud"),
        ("system/Slot.*", "system/Slot.cruds"),
        ("user/Appointment.cruds", "user/Appointment.cruds"),
    ],
)
def test_both_versions_of_the_words_are_understood(word: str, meant: str) -> None:
    assert str(parse(word)) == meant


@pytest.mark.parametrize(
    "word",
    [
        "",
        "user/Appointment.",
        "user/Appointment.sr",
        "user/appointment.r",
        "user/Appointment.rs?code=1",
        "user/Appointment.rs\n",
        "admin/*.cruds",
        "OpenID",
        "*",
    ],
)
def test_other_words_mean_nothing(word: str) -> None:
    assert not known(word)
