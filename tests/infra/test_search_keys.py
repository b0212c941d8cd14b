"""People are found under another key from now on, and by nobody's rows any more under the former one."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest
from click.testing import CliRunner

from domain.patient import HumanName
from infra import search_keys
from infra.cli.main import daybook
from infra.keys import KeyFolder
from infra.search_keys import names_in, retire, rotate
from infra.troubles import CannotStart
from projections.memory import MemoryStore
from projections.people import People
from tests.projections.test_people import Told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    KeyFolder(tmp_path, make=True).make()
    return tmp_path


def told_under(folder: Path) -> Told:
    told = Told()
    told.model = People(told.store, KeyFolder(folder, make=False).search())
    return told


def named(family: str) -> list[HumanName]:
    return [HumanName(family=family)]


def test_the_first_rotation_leaves_blind_to_the_addresses(folder: Path) -> None:
    blind = (folder / "blind").read_bytes()
    assert names_in(folder) == []
    assert rotate(folder) == "search.2"
    assert (folder / "search.1").read_bytes() == blind == (folder / "blind").read_bytes()
    assert (folder / "search.2").read_bytes() != blind
    assert {(folder / name).stat().st_mode & 0o777 for name in names_in(folder)} == {0o600}
    assert retire(folder) == ["search.1"]
    assert retire(folder) == []
    assert rotate(folder) == "search.3"
    assert names_in(folder) == ["search.2", "search.3"]
    assert (folder / "blind").read_bytes() == blind


def test_two_changes_in_one_tick_of_the_clock_are_both_seen(folder: Path) -> None:
    asked = KeyFolder(folder, make=False).search()
    tick = folder.stat().st_mtime_ns
    for keys in (2, 3):
        rotate(folder)
        os.utime(folder, ns=(tick, tick))
        assert len(asked()) == keys


async def test_people_are_found_before_while_and_after_their_rows_are_made_anew(folder: Path) -> None:
    told = told_under(folder)
    anna = await told.register(1, names=named("Novak"))
    rotate(folder)
    # Old rows lead to those who were there, new ones to who comes.
    ben = await told.register(2, names=named("Novakova"))
    assert await told.find(name="nova") == [anna, ben]
    fresh = await told.model.next_generation()
    await fresh.apply(told.log)
    told.model = fresh
    assert await told.find(name="nova") == [anna, ben]
    retire(folder)
    assert await told.find(name="nova") == [anna, ben]


async def test_the_former_key_leads_nowhere_once_rows_are_made_anew(folder: Path) -> None:
    former = KeyFolder(folder, make=False).blinds()
    told = told_under(folder)
    await told.register(1, names=named("Novak"))
    assert await told.find(name="novak") == [UUID(int=1)]
    rotate(folder)
    store = MemoryStore()
    await People(store, KeyFolder(folder, make=False).search()).apply(told.log)
    retire(folder)
    told.model = People(store, lambda: [former])
    assert await told.find(name="novak") == []
    told.model = People(store, KeyFolder(folder, make=False).search())
    assert await told.find(name="novak") == [UUID(int=1)]


def test_a_service_sees_a_new_key_without_a_restart_and_refuses_a_damaged_one(folder: Path) -> None:
    keys = KeyFolder(folder, make=False).search()
    (one,) = keys()
    rotate(folder)
    newest, older = keys()
    assert older.of("x", "y") == one.of("x", "y") != newest.of("x", "y")
    (folder / "search.3").write_bytes(os.urandom(31))
    (folder / "search.3").chmod(0o600)
    with pytest.raises(CannotStart, match="does not hold 32 bytes"):
        keys()


@pytest.mark.parametrize("made", [0, 1])
def test_what_breaks_off_is_gone_on_with(folder: Path, monkeypatch: pytest.MonkeyPatch, made: int) -> None:
    def broken(path: Path) -> bytes:
        raise OSError("broken off")

    keys = KeyFolder(folder, make=False).search()
    was = keys()[0].of("x", "y")
    for _ in range(made):
        rotate(folder)
    monkeypatch.setattr(search_keys, "read_or_make", broken)
    with pytest.raises(OSError, match="broken off"):
        rotate(folder)
    assert was in [key.of("x", "y") for key in keys()]
    monkeypatch.undo()
    rotate(folder)
    assert keys()[0].of("x", "y") != was


def test_it_is_one_command_that_fills_the_read_model_anew(tmp_path: Path) -> None:
    where = ["--data", str(tmp_path / "data")]
    early = CliRunner().invoke(daybook, ["keys", "rotate", "search", *where])
    assert isinstance(early.exception, CannotStart)
    account = ["account", "create", "--role", "admin", "--email", "ann@example.org", "--invite"]
    assert CliRunner().invoke(daybook, [*account, *where]).exit_code == 0
    done = CliRunner().invoke(daybook, ["keys", "rotate", "search", "--json", *where])
    assert done.exit_code == 0, done.output
    assert '"key": "search.2", "rebuilt": {' in done.output
    ended = CliRunner().invoke(daybook, ["keys", "retire", "search", *where])
    assert ended.output == f"retired  {tmp_path / 'data' / 'keys' / 'search.1'}\n"
