"""Merkle trees: the known vectors of Certificate Transparency, and the rules of RFC 9162 for every small tree."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.event_log.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_path,
    inclusion_path,
    is_consistent,
    is_included,
    node,
    root_of,
)
from infra.event_log.rows import leaf_of

# The eight leaves and the roots over the first n of them, as in Google's certificate-transparency tests.
INPUTS = [
    bytes.fromhex(words)
    for words in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAVES = [leaf_of(value) for value in INPUTS]


def subtrees(leaves: list[bytes]) -> Callable[[int, int], bytes]:
    return lambda start, end: by_definition(leaves[start:end])


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162 §2.1.1, as it is written there."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


@pytest.mark.parametrize("size", range(9))
def test_the_known_roots(size: int) -> None:
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]
    assert by_definition(LEAVES[:size]).hex() == ROOTS[size]


def test_known_proofs() -> None:
    path = inclusion_path(5, 8, subtrees(LEAVES))
    assert [step.hex() for step in path] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    path = consistency_path(6, 8, subtrees(LEAVES))
    assert [step.hex() for step in path] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_every_proof_in_small_trees_holds_and_no_other_leaf_passes() -> None:
    leaves = [leaf_of(b"%d" % number) for number in range(33)]
    roots = [by_definition(leaves[:size]) for size in range(34)]
    for size in range(1, 34):
        for index in range(size):
            path = inclusion_path(index, size, subtrees(leaves))
            assert is_included(leaves[index], index, size, path, roots[size])
            assert not is_included(leaves[index], index, size, path, roots[size - 1])
            assert not is_included(leaf_of(b"x"), index, size, path, roots[size])
            assert not is_included(leaves[index], index, size, [*path, EMPTY_ROOT], roots[size])
            if path:
                assert not is_included(leaves[index], index, size, path[:-1], roots[size])
            assert not any(
                is_included(leaves[index], other, size, path, roots[size]) for other in range(size) if other != index
            )
        for first in range(1, size + 1):
            path = consistency_path(first, size, subtrees(leaves))
            assert is_consistent(first, size, roots[first], roots[size], path)
            assert not is_consistent(first, size, leaf_of(b"x"), roots[size], path)
            assert not is_consistent(first, size, roots[first], leaf_of(b"x"), path)


@given(st.lists(st.binary(max_size=8), max_size=70), st.data())
def test_a_frontier_grows_by_leaves_and_by_subtrees_alike(values: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf_of(value) for value in values]
    frontier, at = Frontier(), 0
    while at < len(leaves):
        levels = [level for level in range(7) if at % (1 << level) == 0 and at + (1 << level) <= len(leaves)]
        level = data.draw(st.sampled_from(levels))
        frontier.append_subtree(by_definition(leaves[at : at + (1 << level)]), level)
        at += 1 << level
        assert frontier.root() == by_definition(leaves[:at])
    restored = Frontier(frontier.size, frontier.roots)
    assert restored.root() == by_definition(leaves)


def test_a_frontier_that_does_not_fit_its_size_is_refused() -> None:
    for size, roots in ((1, []), (2, LEAVES[:2]), (1, [b"short"])):
        with pytest.raises(ValueError, match="frontier"):
            Frontier(size, roots)


def test_a_leaf_is_never_taken_for_a_node() -> None:
    assert all(node(left, right) != leaf_of(left + right) for left, right in pairwise(LEAVES))
