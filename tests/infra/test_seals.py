"""What strangers carry for us: read only here, for its purpose, in its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.http.seals import Seals

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
SOON = NOW + timedelta(minutes=1)
SEALS = Seals(bytes(32))


@given(st.dictionaries(st.text(), st.none() | st.integers(-(2**53), 2**53) | st.text()))
def test_what_was_sealed_comes_back_and_shows_nothing(content: dict[str, object]) -> None:
    sealed = SEALS.seal("code", content, SOON)
    assert SEALS.open("code", sealed, NOW) == content
    assert SEALS.seal("code", content, SOON) != sealed


def test_for_another_purpose_too_late_or_elsewhere_it_is_nothing() -> None:
    sealed = SEALS.seal("code", {"account": "a"}, SOON)
    assert SEALS.open("refresh", sealed, NOW) is None
    assert SEALS.open("code", sealed, SOON) is None
    assert Seals(b"another".ljust(32)).open("code", sealed, NOW) is None


@pytest.mark.parametrize("text", [None, "", "x", "é", "a" * 5000, "A" * 40, "not base64!"])
def test_what_was_not_made_here_is_nothing(text: str | None) -> None:
    assert SEALS.open("code", text, NOW) is None


def test_no_character_of_it_can_be_changed() -> None:
    sealed = SEALS.seal("code", {"account": "a"}, SOON)
    for place in range(0, len(sealed) - 1):
        other = "A" if sealed[place] != "A" else "B"
        assert SEALS.open("code", sealed[:place] + other + sealed[place + 1 :], NOW) is None
