"""The secret files that all services of one installation share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from infra.cli.main import daybook
from infra.keys import FILES, LASTING, KeyFolder
from infra.troubles import CannotStart


def make(folder: Path, *arguments: str) -> str:
    done = CliRunner().invoke(daybook, ["keys", "make", "--folder", str(folder), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_what_is_missing_is_made_and_what_is_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "secrets" / "keys"
    assert json.loads(make(folder, "--json")) == {"folder": str(folder), "made": list(FILES)}
    assert folder.stat().st_mode & 0o777 == 0o700
    before = {name: (folder / name).read_bytes() for name in FILES}
    assert {len(secret) for secret in before.values()} == {32}
    assert len(set(before.values())) == len(FILES)
    assert {(folder / name).stat().st_mode & 0o777 for name in FILES} == {0o600}

    (folder / "http").unlink()
    assert json.loads(make(folder, "--json"))["made"] == ["http"]
    words = make(folder)
    assert words.count("kept") == len(FILES)
    after = {name: (folder / name).read_bytes() for name in FILES}
    assert {name for name in FILES if before[name] != after[name]} == {"http"}
    assert not any(secret.hex() in words for secret in after.values())


def test_a_folder_that_was_made_says_what_each_file_is_for(tmp_path: Path) -> None:
    make(tmp_path)
    keys, again = KeyFolder(tmp_path, make=False), KeyFolder(tmp_path, make=False)
    assert keys.tokens().id == again.tokens().id
    assert keys.memory() == again.memory()
    shown = keys.positions().show(7)
    assert again.positions().read(shown) == 7
    keys.master()
    keys.checkpoints()
    keys.cursors()


@pytest.mark.parametrize("name", list(FILES))
def test_services_make_no_key_of_their_own(tmp_path: Path, name: str) -> None:
    make(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CannotStart, match="daybook keys make") as refused:
        KeyFolder(tmp_path, make=False).secret(name)
    assert str(tmp_path / name) in str(refused.value)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", list(FILES))
def test_a_machine_of_its_own_makes_by_itself_only_what_a_log_can_do_without(tmp_path: Path, name: str) -> None:
    keys = KeyFolder(tmp_path, make=True)
    if name in LASTING:
        with pytest.raises(CannotStart, match="is missing"):
            keys.secret(name)
        assert not (tmp_path / name).exists()
    else:
        assert len(keys.secret(name)) == 32


def test_a_damaged_or_open_file_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    file, keys = tmp_path / "master.key", KeyFolder(tmp_path, make=False)
    whole = file.read_bytes()
    file.write_bytes(whole[:31])
    with pytest.raises(CannotStart, match="does not hold 32 bytes"):
        keys.master()
    file.write_bytes(whole)
    # A mounted secret is shared by its group; nobody else may read it.
    file.chmod(0o640)
    keys.master()
    for mode in (0o644, 0o604, 0o660):
        file.chmod(mode)
        with pytest.raises(CannotStart, match="may be read by others"):
            keys.master()
    file.chmod(0o640)
    with pytest.raises(CannotStart, match="0600"):
        KeyFolder(tmp_path, make=True).master()
