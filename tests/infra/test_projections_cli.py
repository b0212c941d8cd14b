"""`daybook projections`, beside a running server and alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.cli.projections import _alone_with
from infra.troubles import Trouble
from tests.conftest import Database
from tests.infra.test_cli import run, serving

NAMES = ["diary", "free_time", "people", "facts", "directory"]


def models(data: Path) -> dict[str, dict[str, object]]:
    told = run("projections", "status", "--json", "--data", str(data))
    assert told.returncode == 0, told.stderr
    return {one["model"]: one for one in json.loads(told.stdout)["models"]}


def test_read_models_are_looked_at_and_rebuilt_with_and_without_a_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    nothing = run("projections", "status", "--data", str(data))
    assert nothing.returncode != 0
    assert "no data" in nothing.stderr
    with serving(data):
        assert run("demo", "--data", str(data)).returncode == 0
        rebuilt = run("projections", "rebuild", "--json", "--data", str(data))
        assert rebuilt.returncode == 0, rebuilt.stderr
        done = json.loads(rebuilt.stdout)["rebuilt"]
        assert [one["model"] for one in done] == NAMES
        served = models(data)
        head = served["diary"]["head"]
        assert [one["position"] for one in done] == [head] * len(NAMES)
        assert [served[name]["state"] for name in NAMES] == ["following"] * len(NAMES)

    alone = models(data)
    assert [(alone[name]["state"], alone[name]["position"]) for name in NAMES] == [("stopped", head)] * len(NAMES)
    one = run("projections", "rebuild", "--model", "facts", "--data", str(data))
    assert (one.returncode, one.stdout.split()[0]) == (0, "facts"), one.stderr
    assert {one["position"] for one in models(data).values()} == {head}
    assert run("projections", "rebuild", "--model", "another", "--data", str(data)).returncode == 2


async def test_nobody_rebuilds_what_another_process_is_rebuilding(database: Database) -> None:
    place = SimpleNamespace(postgres=database.app)
    async with _alone_with(place, "diary"), _alone_with(place, "facts"):
        with pytest.raises(Trouble, match="rebuilding diary"):
            async with _alone_with(place, "diary"):
                raise AssertionError
    async with _alone_with(place, "diary"):
        pass
