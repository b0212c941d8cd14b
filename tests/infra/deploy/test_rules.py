"""Prometheus' rules and alerts: read by promtool, each alert tried with figures that call for it and with others, each
with words in the runbook, each metric of ours one that the services really have."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import needs
from tests.infra.deploy.described import DEPLOY, ROOT

RULES = DEPLOY / "prometheus" / "rules"
RUNBOOK = ROOT / "docs" / "operations" / "runbook.md"

# Half an hour of figures, one a minute: what calls for the alert, and what looks alike and does not.
Series = dict[str, str]
CASES: dict[str, tuple[Series, Series]] = {
    "LogAltered": ({"daybook_log_altered": "0x9 1x20"}, {"daybook_log_altered": "0x30"}),
    "LogUnavailable": (
        {'daybook_commands_total{command="BookAppointment",outcome="unavailable"}': "0+60x30"},
        {'daybook_commands_total{command="BookAppointment",outcome="refused"}': "0+60x30"},
    ),
    "NobodySigns": (
        {"daybook_log_head_position": "1000+60x60", "daybook_log_signed_position": "1000x60"},
        {"daybook_log_head_position": "1000+60x60", "daybook_log_signed_position": "900+60x60"},
    ),
    "JobsWithoutLeader": (
        {'daybook_leads{what="jobs"}': "0x30", 'daybook_build_info{service="jobs"}': "1x30"},
        {
            'daybook_leads{what="jobs",instance="a"}': "0x30",
            'daybook_leads{what="jobs",instance="b"}': "1x30",
            'daybook_build_info{service="jobs"}': "1x30",
        },
    ),
    "WriterQueueDeep": (
        {'daybook_log_pending_saves{instance="a"}': "900x30"},
        {'daybook_log_pending_saves{instance="a"}': "0 900 0 64x27"},
    ),
    "AnswersFail": (
        {
            'daybook_http_answers_total{service="write",status="201"}': "0+60x30",
            'daybook_http_answers_total{service="write",status="500"}': "0+3x30",
        },
        {
            'daybook_http_answers_total{service="write",status="201"}': "0+60x30",
            'daybook_http_answers_total{service="write",status="409"}': "0+60x30",
        },
    ),
    "CommandsBreak": (
        {'daybook_commands_total{command="BookAppointment",outcome="failed"}': "0+1x30"},
        {'daybook_commands_total{command="BookAppointment",outcome="failed"}': "3x30"},
    ),
    "AnswersSlow": (
        {
            'daybook_http_answers_total{service="read",status="200"}': "0+60x30",
            'daybook_http_request_seconds_bucket{service="read",le="0.5"}': "0+30x30",
            'daybook_http_request_seconds_bucket{service="read",le="1.0"}': "0+60x30",
            'daybook_http_request_seconds_bucket{service="read",le="+Inf"}': "0+60x30",
        },
        {
            'daybook_http_answers_total{service="read",status="200"}': "0+60x30",
            'daybook_http_request_seconds_bucket{service="read",le="0.05"}': "0+60x30",
            'daybook_http_request_seconds_bucket{service="read",le="+Inf"}': "0+60x30",
        },
    ),
    "CommandsCongested": (
        {'daybook_commands_total{command="BookAppointment",outcome="busy"}': "0+30x30"},
        {'daybook_commands_total{command="BookAppointment",outcome="busy"}': "0+1x30"},
    ),
    "ServiceDown": (
        {'up{job="daybook",component="relay",instance="a"}': "0x30"},
        {'up{job="daybook",component="relay",instance="a"}': "1x30"},
    ),
    "EventLoopLate": (
        {
            'daybook_event_loop_lag_seconds_bucket{instance="a",le="0.25"}': "0+100x30",
            'daybook_event_loop_lag_seconds_bucket{instance="a",le="1.0"}': "0+200x30",
            'daybook_event_loop_lag_seconds_bucket{instance="a",le="+Inf"}': "0+200x30",
        },
        {
            'daybook_event_loop_lag_seconds_bucket{instance="a",le="0.01"}': "0+200x30",
            'daybook_event_loop_lag_seconds_bucket{instance="a",le="+Inf"}': "0+200x30",
        },
    ),
    "FilesRunOut": (
        {'process_open_fds{job="daybook"}': "900x30", 'process_max_fds{job="daybook"}': "1024x30"},
        {'process_open_fds{job="daybook"}': "90x30", 'process_max_fds{job="daybook"}': "1024x30"},
    ),
    "RelayWithoutLeader": (
        {'daybook_relay_state{state="active"}': "0x30", 'daybook_build_info{service="relay"}': "1x30"},
        {'daybook_relay_state{state="active"}': "1x30", 'daybook_build_info{service="relay"}': "1x30"},
    ),
    "RelayBehind": ({"daybook_relay_lag_events": "0+5000x30"}, {"daybook_relay_lag_events": "0 30000 500x28"}),
    "ProjectionBehind": (
        {'daybook_projection_lag_seconds{model="diary",part="3"}': "0+30x30"},
        {'daybook_projection_lag_seconds{model="diary",part="3"}': "0 90 0x28"},
    ),
    "ProjectionFarBehind": (
        {'daybook_projection_lag_seconds{model="diary",part="3"}': "0+60x30"},
        {'daybook_projection_lag_seconds{model="diary",part="3"}': "0+20x30"},
    ),
    "ProjectionStopped": (
        {'daybook_projection_failed{model="facts"}': "1x30"},
        {'daybook_projection_failed{model="facts"}': "0x30"},
    ),
    "ProjectionWaits": (
        {'daybook_projection_waiting{model="diary"}': "1x30"},
        {'daybook_projection_waiting{model="diary"}': "0 1 0 1 0x26"},
    ),
    "PartsUnassigned": (
        {'daybook_worker_parts{model="diary",instance="a"}': "5x30"},
        {
            'daybook_worker_parts{model="diary",instance="a"}': "5x30",
            'daybook_worker_parts{model="diary",instance="b"}': "7x30",
        },
    ),
    "DeadLetters": (
        {'daybook_worker_dead_letters_total{model="facts"}': "0x20 1x10"},
        {'daybook_worker_dead_letters_total{model="facts"}': "4x30"},
    ),
    "TopicLeaky": (
        {'daybook_worker_events_from_log_total{model="facts"}': "0+6000x60"},
        {'daybook_worker_events_from_log_total{model="facts"}': "0x10 5000x50"},
    ),
    "BackupTooOld": (
        {"daybook_backup_timestamp_seconds": "0x60"},
        {"daybook_backup_timestamp_seconds": "0+60x60"},
    ),
    "BackupMissing": (
        {'daybook_build_info{service="jobs"}': "1x60"},
        {'daybook_build_info{service="jobs"}': "1x60", "daybook_backup_timestamp_seconds": "0+60x60"},
    ),
    "StoreErrors": (
        {'daybook_store_errors_total{service="read",store="redis"}': "0+60x30"},
        {'daybook_store_errors_total{service="read",store="redis"}': "9x30"},
    ),
    "PostgresDown": ({"pg_up": "0x30"}, {"pg_up": "1x30"}),
    "PostgresConnectionsRunOut": (
        {
            'pg_stat_database_numbackends{instance="a",datname="daybook"}': "190x30",
            'pg_settings_max_connections{instance="a"}': "200x30",
        },
        {
            'pg_stat_database_numbackends{instance="a",datname="daybook"}': "90x30",
            'pg_settings_max_connections{instance="a"}': "200x30",
        },
    ),
    "RedisDown": ({"redis_up": "0x30"}, {"redis_up": "1x30"}),
    "RedisFull": (
        {"redis_memory_used_bytes": "950x30", "redis_memory_max_bytes": "1000x30"},
        {"redis_memory_used_bytes": "950x30", "redis_memory_max_bytes": "0x30"},
    ),
    "KafkaBrokersMissing": ({"kafka_brokers": "2x30"}, {"kafka_brokers": "3x30"}),
    "KafkaUnderReplicated": (
        {'kafka_topic_partition_under_replicated_partition{topic="daybook.events",partition="1"}': "1x30"},
        {'kafka_topic_partition_under_replicated_partition{topic="of.others",partition="1"}': "1x30"},
    ),
    "ElasticsearchRed": (
        {'elasticsearch_cluster_health_status{color="red"}': "1x30"},
        {'elasticsearch_cluster_health_status{color="yellow"}': "1x30"},
    ),
    "ElasticsearchDisk": (
        {
            "elasticsearch_filesystem_data_available_bytes": "10x30",
            "elasticsearch_filesystem_data_size_bytes": "100x30",
        },
        {
            "elasticsearch_filesystem_data_available_bytes": "50x30",
            "elasticsearch_filesystem_data_size_bytes": "100x30",
        },
    ),
    "ClickHouseParts": (
        {"ClickHouseAsyncMetrics_MaxPartCountForPartition": "2000x30"},
        {"ClickHouseAsyncMetrics_MaxPartCountForPartition": "200x30"},
    ),
    "DiskFull": (
        {
            'node_filesystem_avail_bytes{fstype="ext4",mountpoint="/"}': "5x30",
            'node_filesystem_size_bytes{fstype="ext4",mountpoint="/"}': "100x30",
        },
        {
            'node_filesystem_avail_bytes{fstype="tmpfs",mountpoint="/tmp"}': "5x30",
            'node_filesystem_size_bytes{fstype="tmpfs",mountpoint="/tmp"}': "100x30",
        },
    ),
    "CertificateExpires": (
        {"probe_ssl_earliest_cert_expiry": "86400x90"},
        {"probe_ssl_earliest_cert_expiry": "8640000x90"},
    ),
}


def groups() -> list[dict[str, Any]]:
    return [group for file in sorted(RULES.glob("*.yaml")) for group in yaml.safe_load(file.read_text())["groups"]]


def rules() -> list[dict[str, Any]]:
    return [rule for group in groups() for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def promtool(*arguments: str) -> None:
    done = subprocess.run([needs.program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_its_own_settings(tmp_path: Path) -> None:
    promtool("check", "rules", *map(str, sorted(RULES.glob("*.yaml"))))
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))
    named = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["rule_files"]
    found = {path for pattern in named for path in (DEPLOY / "prometheus").glob(pattern)}
    assert found == set(RULES.iterdir())


def test_every_alert_is_tried_below() -> None:
    assert CASES.keys() == alerts().keys()


def test_an_alert_fires_when_it_should_and_not_when_it_should_not(tmp_path: Path) -> None:
    def case(alert: str, series: Series, fires: bool) -> dict[str, Any]:
        # After the last of the figures nothing is fresh any more.
        steps = min(sum(_length(part) for part in values.split()) for values in series.values())
        return {
            "name": f"{alert} {'fires' if fires else 'is silent'}",
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})',
                    "eval_time": f"{steps - 1}m",
                    "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                }
            ],
        }

    cases = [case(name, series[0], True) for name, series in CASES.items()]
    cases += [case(name, series[1], False) for name, series in CASES.items()]
    file = tmp_path / "alerts.yaml"
    files = [str(path) for path in sorted(RULES.glob("*.yaml"))]
    file.write_text(json.dumps({"rule_files": files, "evaluation_interval": "1m", "tests": cases}))
    promtool("test", "rules", str(file))


def _length(part: str) -> int:
    return int(part.partition("x")[2]) + 1 if "x" in part else 1


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_says_how_bad_it_is_and_the_runbook_says_what_to_do(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert {"summary", "description", "runbook_url"} <= alert["annotations"].keys()
    file, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    assert (ROOT / file, anchor) == (RUNBOOK, name.lower())
    section = re.search(rf"^## {name}\n(.+?)(?=^## |\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None, f"the runbook says nothing of {name}"
    for words in ("**Means**", "**Look**", "**Do**"):
        assert words in section[1]


def test_the_runbook_speaks_of_no_alert_that_is_not_there() -> None:
    assert set(re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE)) == alerts().keys()


def test_an_altered_log_pages_without_waiting() -> None:
    assert "for" not in alerts()["LogAltered"]
    assert alerts()["LogAltered"]["labels"]["severity"] == "page"
