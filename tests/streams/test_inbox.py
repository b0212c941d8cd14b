"""A part's messages become batches that say truly whether they are whole, in whatever order they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.deadletters import Letter, Retry
from streams.inbox import Arrived, Batch, Inbox, Manifest
from streams.parts import PARTS, part_name, part_of

NUMBER, PARTS_HERE = 1, 3
STREAM = next(f"elm/page/{n}" for n in range(100) if part_of(f"elm/page/{n}", PARTS_HERE) == NUMBER)
OTHER = next(f"elm/page/{n}" for n in range(100) if part_of(f"elm/page/{n}", PARTS_HERE) != NUMBER)


def event(position: int, offset: int = 0, stream: str = STREAM) -> Arrived:
    return Arrived(offset, float(position), position, stream, ("row", position), None)


def manifest(after: int, upto: int, events: int, offset: int = 0) -> Arrived:
    return Arrived(offset, 99.0, 0, "", None, Manifest(after, upto, events))


def taken(inbox: Inbox, *arrived: Arrived) -> list[tuple[int, int, list[int], bool]]:
    return [
        (batch.after, batch.upto, [one.position for one in batch.rows], batch.whole)
        for batch in inbox.take(arrived)
        if isinstance(batch, Batch)
    ]


def test_several_manifests_in_one_fetch_and_one_over_several_fetches() -> None:
    inbox = Inbox(NUMBER, PARTS_HERE)
    assert taken(inbox, event(1), event(4), manifest(0, 5, 2), event(7), manifest(5, 9, 1), manifest(9, 12, 0)) == [
        (0, 5, [1, 4], True),
        (5, 9, [7], True),
        (9, 12, [], True),
    ]
    assert taken(inbox, event(13)) == []
    assert taken(inbox, event(14), manifest(12, 15, 2)) == [(12, 15, [13, 14], True)]


def test_repeats_fall_away_and_what_overtook_its_manifest_waits() -> None:
    inbox = Inbox(NUMBER, PARTS_HERE)
    assert taken(inbox, event(8), event(2), event(2), event(1), event(2), manifest(0, 5, 2)) == [(0, 5, [1, 2], True)]
    assert taken(inbox, event(2), manifest(5, 9, 1)) == [(5, 9, [8], True)]


def test_what_is_missing_or_too_much_is_told() -> None:
    inbox = Inbox(NUMBER, PARTS_HERE)
    assert taken(inbox, event(1), manifest(0, 5, 2), event(6), event(7), manifest(5, 9, 1)) == [
        (0, 5, [1], False),
        (5, 9, [6, 7], False),
    ]


def test_junk_and_what_belongs_elsewhere_comes_back() -> None:
    inbox = Inbox(NUMBER, PARTS_HERE)
    junk, misplaced = Arrived(3, 0.0, 0, "", None, None), event(4, 5, OTHER)
    assert [one for one in inbox.take([event(1), junk, misplaced]) if not isinstance(one, Batch)] == [junk, misplaced]


@given(st.lists(st.integers(1, 60), unique=True), st.randoms())
def test_any_order_within_a_manifest_is_one_order(positions: list[int], chance: object) -> None:
    shuffled = positions * 2
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    found = taken(Inbox(NUMBER, PARTS_HERE), *map(event, shuffled), manifest(0, 60, len(positions)))
    assert found == [(0, 60, sorted(positions), True)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"7",
        b'{"after":-1,"upto":1,"events":0}',
        b'{"after":1,"upto":1,"events":0}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_no_manifest_letter_or_retry_is_refused(data: bytes) -> None:
    for kind in (Manifest, Letter, Retry):
        with pytest.raises(ValueError):  # noqa: PT011 - decoding and shape alike
            kind.from_json(data)


def test_what_is_written_is_read_back() -> None:
    assert Manifest.from_json(Manifest(3, 9, 2).to_json()) == Manifest(3, 9, 2)
    letter = Letter(
        "diary", "elm/page/1|7", "ZeroDivisionError", "2026-03-01T00:00:00+00:00", "elm", "page/1", 7, 2, "A.v1"
    )
    assert Letter.from_json(letter.to_json()) == letter
    assert letter.key == "diary|elm/page/1|7"
    assert Retry.from_json(Retry("diary", "elm", "page/1").to_json()) == Retry("diary", "elm", "page/1")


@pytest.mark.parametrize(
    ("organization", "stream"), [("elm", "page/\0"), ("e\0lm", "page/1"), ("elm", "\ud800"), ("elm", "x" * 513)]
)
def test_a_retry_of_what_can_be_no_stream_is_refused(organization: str, stream: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever says that it is no name
        Retry.from_json(Retry("diary", organization, stream).to_json())
    longest = Retry("diary", "elm", "x" * 512)
    assert Retry.from_json(longest.to_json()) == longest


def test_parts_never_change() -> None:
    """Read models keep positions by part: what these gave once, they give for ever."""
    assert PARTS == 12
    assert [part_of(name, 12) for name in ("main/page/1", "elm/appointment/2", "ü/provider/3")] == [0, 2, 6]
    assert part_name(3, 12) == "3/12"
