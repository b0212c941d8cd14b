"""Rotating the keys of tokens: the newest signs, the older verify until they are retired, and nobody restarts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from domain.access import Role
from infra.cli.main import daybook
from infra.http.tokens import WRITE, Bearers, SigningKey, TokenInvalid, mint
from infra.keys import KeyFolder
from infra.signing_keys import TokenKeys, names_in, retire, rotate


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def header(key: SigningKey) -> str:
    made = mint(
        key,
        role=Role.ADMIN,
        organization="main",
        subject="admin-1",
        now=datetime.now(UTC),
        lifetime=timedelta(minutes=5),
    )
    return f"Bearer {made}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> TokenKeys:
    return TokenKeys(tmp_path, KeyFolder(tmp_path, make=True).secret, clock=clock)


def test_the_newest_signs_and_the_older_verify(tmp_path: Path, keys: TokenKeys, clock: Clock) -> None:
    bearers = Bearers(keys, WRITE)
    first = keys.newest()
    before = header(first)
    assert rotate(tmp_path) == "tokens.2.ed25519"
    clock.now += 2
    second = keys.newest()
    assert second.id != first.id
    assert set(keys) == {first.id, second.id}
    assert bearers.check(before)
    assert bearers.check(header(second))


def test_another_process_takes_a_new_key_up_when_it_meets_it(tmp_path: Path, keys: TokenKeys, clock: Clock) -> None:
    bearers = Bearers(keys, WRITE)
    rotate(tmp_path)
    newest = header(KeyFolder(tmp_path, make=False).tokens())
    # At most one look a second, however often strangers name keys that nobody knows.
    with pytest.raises(TokenInvalid):
        bearers.check(newest)
    clock.now += 1
    assert bearers.check(newest)


def test_what_a_retired_key_signed_is_refused(tmp_path: Path, keys: TokenKeys, clock: Clock) -> None:
    before = header(keys.newest())
    for _ in range(11):
        rotate(tmp_path)
    assert names_in(tmp_path)[-1] == "tokens.12.ed25519"
    assert len(retire(tmp_path)) == 11
    clock.now += 1
    assert list(keys) == [keys.newest().id]
    with pytest.raises(TokenInvalid):
        Bearers(keys, WRITE).check(before)


def test_only_files_of_that_name_are_keys(tmp_path: Path, keys: TokenKeys) -> None:
    for name in ("tokens.01.ed25519", "tokens.2.ed25519.old", "tokens.x.ed25519", "xtokens.2.ed25519"):
        (tmp_path / name).write_bytes(bytes(32))
    assert names_in(tmp_path) == ["tokens.ed25519"]


def test_the_command_line_rotates_and_retires(tmp_path: Path) -> None:
    def said(*arguments: str) -> dict[str, object]:
        done = CliRunner().invoke(daybook, ["keys", *arguments, "tokens", "--folder", str(tmp_path), "--json"])
        assert done.exit_code == 0, done.output
        answer: dict[str, object] = json.loads(done.output)
        return answer

    assert said("rotate") == {"signs": "tokens.ed25519"}
    assert said("rotate") == {"signs": "tokens.2.ed25519"}
    assert (tmp_path / "tokens.2.ed25519").stat().st_mode & 0o777 == 0o600
    assert said("retire") == {"retired": ["tokens.ed25519"]}
    assert said("retire") == {"retired": []}
