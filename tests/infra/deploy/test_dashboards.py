"""Grafana's dashboards: whole, their PromQL read by promtool, their SQL run on real facts, and their figures ones that
the services really have."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

import write_api.app  # noqa: F401 - registers every command
from commands.loop import HANDLERS, Desk
from infra.embedded.clickhouse import ClickHouse
from infra.event_log.checkpoints import Checkpointer, SigningKey
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.http.health import HttpMetrics
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.leadership import Leader
from infra.metrics import (
    AppliedMetrics,
    BackupMetrics,
    CommandMetrics,
    LogMetrics,
    ModelMetrics,
    RelayMetrics,
    SigningMetrics,
    WorkerMetrics,
    loop_watched,
    registry_of,
)
from projections.facts import Facts
from streams.follower import Follower
from streams.relay import Relay
from streams.worker import Worker
from tests import needs
from tests.conftest import Database
from tests.infra.deploy.described import DEPLOY, ROOT
from tests.infra.deploy.test_rules import rules
from tests.projections.histories import at_random, written

BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
# Of the usual exporters, which are others' to keep.
_OTHERS = ("pg_", "redis_", "kafka_", "elasticsearch_", "ClickHouse", "node_", "probe_")


def board(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return read


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in BOARDS:
        for panel in board(path)["panels"]:
            if panel["type"] != "row":
                yield f"{path.stem}: {panel['title']}", panel


def promql() -> dict[str, str]:
    """Every expression by where it stands, with Grafana's own variables filled in."""
    found = {
        f"{where} {target['refId']}": target["expr"]
        for where, panel in panels()
        if panel["datasource"]["type"] == "prometheus"
        for target in panel["targets"]
    }
    found |= {f"{path.stem}: annotations": one["expr"] for path in BOARDS for one in board(path)["annotations"]["list"]}
    return {where: text.replace("$__rate_interval", "1m") for where, text in found.items()}


def sql() -> dict[str, str]:
    found = {
        where: target["rawSql"]
        for where, panel in panels()
        if panel["datasource"]["type"] == "grafana-clickhouse-datasource"
        for target in panel["targets"]
    }
    for path in BOARDS:
        for variable in board(path)["templating"]["list"]:
            found[f"{path.stem}: ${variable['name']}"] = variable["query"]
    return found


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Path) -> None:
    read = board(path)
    assert read["uid"] == f"daybook-{path.stem}"
    assert not read["editable"]
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/daybook.yaml").read_text("utf-8"))
    sources = {(one["type"], one["uid"]) for one in provisioned["datasources"]}
    ids = [panel["id"] for panel in read["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in read["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["targets"]
            for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
                assert (source["type"], source["uid"]) in sources
            refs = [target["refId"] for target in panel["targets"]]
            assert len(set(refs)) == len(refs)
    titles = [panel["title"] for panel in read["panels"]]
    assert len(set(titles)) == len(titles)


def test_promtool_reads_every_expression(tmp_path: Path) -> None:
    file = tmp_path / "panels.yaml"
    # As rules, each under a name of its own.
    listed = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(promql().values())]
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": listed}]}))
    done = subprocess.run(
        [needs.program("promtool"), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def test_clickhouse_answers_every_question(clickhouse: ClickHouse) -> None:
    empty = set(sql())
    # Two histories, since neither has everything in it.
    for seed in (7, 18):
        facts = Facts(clickhouse.connect(), clickhouse.connect(), database=f"boards_{seed}")
        await facts.apply(written(at_random(seed, 900)).events)
        await facts.close()
        asker = clickhouse.connect(f"boards_{seed}")
        for where, text in sql().items():
            asked = text.replace("${organization:singlequote}", "'elm','oak'")
            asked = asked.replace("$__fromTime", "toDateTime('1971-01-01 00:00:00', 'UTC')")
            asked = asked.replace("$__toTime", "toDateTime('2100-01-01 00:00:00', 'UTC')")
            assert "$" not in asked, where
            if asker.query(asked).result_rows:
                empty.discard(where)
    assert not empty


async def _exported(database: Database, folder: Path) -> set[str]:
    """The names under which everything that can be told is told, by the very parts that tell it."""
    keyring = PostgresKeyring(database.app, MasterKeyFile.at(folder / "master.key"))
    registry: CollectorRegistry = registry_of("here")
    async with PostgresEventLog(database.app, keyring) as log, loop_watched(registry):
        desk = Desk(log, log.clock, TimeOrderedIds(), PublicHolidays())
        CommandMetrics(desk, registry)
        AppliedMetrics(registry, log.clock)
        HttpMetrics(registry, "write")
        for one in (
            LogMetrics(log),
            SigningMetrics(Checkpointer(database.app, folder / "checkpoints", SigningKey(bytes(32)), log.wait)),
            BackupMetrics(folder),
            ModelMetrics(Follower(log, []), log),
            RelayMetrics(Relay(None, None, None)),  # type: ignore[arg-type]
            Leader(database.app, "jobs", None).metrics,  # type: ignore[arg-type]
        ):
            registry.register(one)
        workers = CollectorRegistry()
        workers.register(WorkerMetrics(Worker(None, None, [], topic="t", parts=12)))  # type: ignore[arg-type]
        names = {"up", "ALERTS"}
        for metric in (*registry.collect(), *workers.collect()):
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}
            names |= {metric.name + suffix for suffix in suffixes.get(metric.type, ("",))}
    await keyring.close()
    return names


async def test_every_figure_of_ours_is_one_that_the_services_have(database: Database, tmp_path: Path) -> None:
    exported = await _exported(database, tmp_path)
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = {
        **{rule.get("alert") or rule["record"]: rule["expr"] for rule in rules()},
        **promql(),
    }
    unknown = {}
    for where, text in expressions.items():
        bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', lambda found: "" if found[0][0] == '"' else " ", text)
        bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", " ", bare)
        names = set(re.findall(r"\b[a-zA-Z_][\w:]*\b(?!\s*\()", bare)) - {"and", "or", "unless", "on", "by", "bool"}
        missing = {one for one in names - exported - recorded if not one.startswith(_OTHERS)}
        if missing:
            unknown[where] = missing
    assert unknown == {}


async def test_every_figure_is_explained(database: Database, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations" / "observability.md").read_text("utf-8")
    explained: set[str] = set()
    for row in re.findall(r"^\| (`daybook_.+?) \|", page, re.MULTILINE):
        first, *others = re.findall(r"`(\w+)`", row)
        # `_events_total` behind `daybook_log_saves_total` stands for `daybook_log_events_total`.
        starts = [first[: place.start()] for place in re.finditer("_", first)]
        explained |= {first, *(start + other for other in others for start in starts), *others}
    exported = {re.sub(r"_(bucket|count|sum)$", "", one) for one in await _exported(database, tmp_path)}
    exported = {one for one in exported if one.startswith("daybook_")}
    assert exported <= explained
    # What begins a row is written out, so it can be looked for the other way round.
    assert set(re.findall(r"^\| `(daybook_\w+)`", page, re.MULTILINE)) <= exported


def test_commands_are_named_as_they_are() -> None:
    commands = {kind.__name__ for kind in HANDLERS}
    named = set(re.findall(r'command=~?"([^"]+)"', " ".join(promql().values())))
    assert {one for words in named for one in words.split("|")} <= commands
