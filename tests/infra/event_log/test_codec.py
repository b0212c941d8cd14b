"""Events to bytes and back: canonical JSON, seals, upcasters, and what can't be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from domain.events import ERASED, Event
from domain.ports import UnreadableEvent
from domain.refusals import Invalid
from domain.upcasters import UPCASTERS
from infra.event_log.codec import Stored, canonical, decode, encode, person_of, persons_in
from tests.infra.event_log.conftest import Confided, Noted

KEY, OTHER_KEY = os.urandom(32), os.urandom(32)
EVENT_ID = UUID(int=7)
PATIENT = UUID(int=9)

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | words,
    lambda inner: st.lists(inner) | st.dictionaries(words, inner),
)


def stored(event: Event, key: bytes | None = None, *, event_id: UUID = EVENT_ID) -> Stored:
    return Stored(1, "clinic", event_id, event.NAME, encode(event, "clinic", event_id, key))


@given(documents)
def test_json_is_canonical(document: Any) -> None:
    assert canonical(document) == rfc8785.dumps(document)


def test_keys_are_sorted_by_utf_16_units() -> None:
    assert canonical({"\ufb33": 1, "\U0001f600": 2, "a": 3}) == '{"a":3,"\U0001f600":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize("value", ["\x00", "a\x00", "\ud800", "\udfff x", {"\x00": 1}, {"\ud800": 1}, 2**53, -(2**53)])
def test_what_json_can_not_carry_everywhere_is_refused(value: Any) -> None:
    with pytest.raises(Invalid):
        canonical([value])


@pytest.mark.parametrize("value", [1.5, 1e300, 1e-300, 2.0, float("nan"), float("inf"), Decimal(1), b"x"])
def test_a_float_has_no_place_in_an_event(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical({"a": [value]})


@pytest.mark.parametrize("words", ["1.5", "\\u0000", "NaN", "1e+5", "12345678901234567890"])
def test_words_that_look_like_a_float_are_only_words(words: str) -> None:
    assert json.loads(canonical([words])) == [words]


def test_personal_words_are_sealed_and_opened() -> None:
    event = Confided(patient=PATIENT, reason="chest pain", notes=["smokes", "é"], code="R07")
    row = stored(event, KEY)
    assert person_of(event) == str(PATIENT)
    assert list(persons_in(row)) == [str(PATIENT)]
    for leaked in (b"chest", b"smokes"):
        assert leaked not in row.payload
    assert b"R07" in row.payload
    assert rfc8785.dumps(json.loads(row.payload)) == row.payload
    assert decode(row, {str(PATIENT): KEY}) == event


@pytest.mark.parametrize("keys", [{}, {str(PATIENT): None}, {str(PATIENT): OTHER_KEY}])
def test_without_the_key_personal_words_read_as_erased(keys: dict[str, bytes | None]) -> None:
    event = decode(stored(Confided(patient=PATIENT, reason="pain", code="R07"), KEY), keys)
    assert isinstance(event, Confided)
    assert (event.reason, event.notes, event.code) == (ERASED, None, "R07")


def test_erased_words_can_be_written_again_and_stay_erased() -> None:
    event = Confided(patient=PATIENT, reason=ERASED, code="R07")
    assert person_of(event) is None
    row = stored(event)
    assert list(persons_in(row)) == []
    assert decode(row, {}) == event


def test_nothing_to_seal_needs_no_key() -> None:
    event = Confided(patient=PATIENT, code="R07")
    assert person_of(event) is None
    assert decode(stored(event), {}) == event


def test_personal_words_are_never_written_without_a_key() -> None:
    with pytest.raises(TypeError, match="without a key"):
        stored(Confided(patient=PATIENT, reason="pain"))


def test_a_seal_holds_for_its_own_event_and_field_alone() -> None:
    row = stored(Confided(patient=PATIENT, reason="pain", notes=["a"]), KEY)
    keys = {str(PATIENT): KEY}
    payload = json.loads(row.payload)
    swapped = payload | {"reason": payload["notes"], "notes": payload["reason"]}
    for altered in (
        Stored(1, "clinic", uuid4(), row.name, row.payload),
        Stored(1, "other", EVENT_ID, row.name, row.payload),
        Stored(1, "clinic", EVENT_ID, row.name, json.dumps(swapped, separators=(",", ":")).encode()),
    ):
        with pytest.raises(UnreadableEvent, match="broken"):
            decode(altered, keys)


def test_text_in_a_sealed_field_is_checked_too() -> None:
    for text in ("a\x00", "\ud800"):
        with pytest.raises(Invalid) as refusal:
            stored(Confided.model_construct(patient=PATIENT, reason=text, notes=None, code=""), KEY)
        assert refusal.value.__cause__ is None


class Sketched(Event):
    NAME: ClassVar[str] = "TestSketched.v3"
    title: str
    reason: object = None


@pytest.fixture
def upcasters() -> Iterator[None]:
    UPCASTERS["TestSketched.v1"] = lambda payload: ("TestSketched.v2", payload | {"label": payload["name"]})
    UPCASTERS["TestSketched.v2"] = lambda payload: (
        "TestSketched.v3",
        {"title": payload["label"].title(), "reason": payload.get("reason")},
    )
    yield
    del UPCASTERS["TestSketched.v1"], UPCASTERS["TestSketched.v2"]


@pytest.mark.usefixtures("upcasters")
def test_an_older_shape_is_read_through_its_upcasters() -> None:
    row = Stored(1, "clinic", EVENT_ID, "TestSketched.v1", b'{"name":"knee"}')
    assert decode(row, {}) == Sketched(title="Knee")


@pytest.mark.usefixtures("upcasters")
def test_an_upcaster_sees_personal_words_opened_or_erased() -> None:
    sealed = json.loads(stored(Confided(patient=PATIENT, reason="pain"), KEY).payload)["reason"]
    row = Stored(1, "clinic", EVENT_ID, "TestSketched.v2", canonical({"label": "knee", "reason": sealed}))
    assert decode(row, {str(PATIENT): KEY}) == Sketched(title="Knee", reason="pain")
    assert decode(row, {}) == Sketched(title="Knee", reason=ERASED)


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("TestForgotten.v9", b"{}"),
        (Noted.NAME, b"{"),
        (Noted.NAME, b"[]"),
        (Noted.NAME, b'{"number":"private words"}'),
        (Confided.NAME, b'{"sealed":"v1"'),
    ],
)
def test_what_can_not_be_read_is_named_without_its_words(name: str, payload: bytes) -> None:
    with pytest.raises(UnreadableEvent) as error:
        decode(Stored(41, "clinic", EVENT_ID, name, payload), {})
    assert "41" in str(error.value)
    assert name in str(error.value)
    assert "private" not in str(error.value)
