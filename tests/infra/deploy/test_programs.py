"""Every command line of the Dockerfile, of compose.yaml and of the manifests, run as the process that it will be."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from infra.kafka.connections import Brokers
from infra.local.clickhouse import ClickHouseServer
from infra.local.elasticsearch import Elasticsearch
from infra.local.kafka import Kafka
from infra.settings import Settings
from tests import needs
from tests.infra.deploy.described import DEPLOY, Program, compose, image_environment, image_step, programs
from tests.infra.deploy.image import Image
from tests.infra.deploy.place import PATIENCE, Place, free_port, opened, until

_ONCE = {"migrate", "backup"}

_PLACES = (
    *("POSTGRES_DSN", "POSTGRES_OWNER_DSN", "REDIS_URL", "CLICKHOUSE_URL", "ELASTICSEARCH_URL"),
    *("KAFKA", "KEYS", "CHECKPOINTS", "BACKUPS", "OTLP_ENDPOINT"),
)
_SETTINGS = {"DATA", "PORT"} | {f"DAYBOOK_{one.name.upper()}" for one in dataclasses.fields(Settings)}
# What Python and the system hear.
_OTHERS = {"PATH", "HOME", "TMPDIR", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}


def in_compose() -> dict[str, Program]:
    start = "compose.yaml: "
    return {one.where.removeprefix(start): one for one in programs() if one.where.startswith(start)}


def services() -> dict[str, Program]:
    return {name: one for name, one in in_compose().items() if one.command not in _ONCE}


@pytest.mark.parametrize("arguments", sorted({one.arguments for one in programs()}), ids=" ".join)
def test_the_image_knows_every_command(image: Image, arguments: tuple[str, ...]) -> None:
    shown = image.run("daybook", *arguments, "--help")
    assert (shown.returncode, shown.stderr) == (0, "")


def test_kubernetes_and_compose_start_the_same_programs() -> None:
    def without_interval(one: Program) -> tuple[str, ...]:
        return one.arguments[: one.arguments.index("--every")] if "--every" in one.arguments else one.arguments

    ours = {without_interval(one) for one in in_compose().values()}
    for overlay in ("development", "production"):
        theirs = {one.arguments for one in programs() if one.where.startswith(overlay)}
        assert theirs == ours


def test_kubernetes_and_compose_tell_a_program_the_same_things() -> None:
    def told(one: Program) -> set[str]:
        given = {name.removesuffix("_FILE") for name in one.environment}
        # Kafka has passwords and certificates in a cluster alone; the rest may be said or left as it is.
        return given & {f"DAYBOOK_{name}" for name in _PLACES}

    compose_ones = in_compose()
    for one in programs():
        overlay, _, name = one.where.partition(": ")
        if overlay.startswith(("development", "production")):
            assert told(one) == told(compose_ones[name.rpartition("/daybook-")[2]]), one.where


@pytest.mark.parametrize("program", programs(), ids=lambda one: one.where)
def test_every_variable_is_one_that_somebody_hears(program: Program) -> None:
    for name in {**image_environment(), **program.environment}:
        known = name in _SETTINGS | _OTHERS or name.removesuffix("_FILE") in _SETTINGS
        assert known, name


@pytest.mark.parametrize("program", programs(), ids=lambda one: one.where)
def test_every_environment_makes_good_settings(program: Program, tmp_path: Path) -> None:
    told = {**image_environment(), **program.environment}
    for name in [name for name in told if name.endswith("_FILE")]:
        file = tmp_path / name
        file.write_text(f"{name.lower()}\n")
        told[name] = str(file)
    settings = Settings.load(told)
    assert settings.stack == "full"
    assert settings.host == "0.0.0.0"
    for name in told:
        field = name.removesuffix("_FILE").removeprefix("DAYBOOK_").lower()
        if name.endswith("_FILE") and name.startswith("DAYBOOK_"):
            assert getattr(settings, field) == name.lower()
    if settings.kafka:
        user, password = settings.kafka_user, settings.kafka_password
        assert Brokers(settings.kafka, settings.kafka_security, username=user, password=password).addresses


@pytest.fixture(scope="module")
def place(
    image: Image, kafka: Kafka, elasticsearch: Elasticsearch, clickhouse_server: ClickHouseServer
) -> Iterator[Place]:
    """Migrated by compose's own command; nothing else runs yet."""
    stores = {
        "kafka": kafka.bootstrap,
        "elasticsearch_url": elasticsearch.url,
        "clickhouse_url": clickhouse_server.url,
    }
    with opened(image, stores) as place:
        migrated = place.run(in_compose()["migrate"])
        assert migrated.returncode == 0, migrated.stdout + migrated.stderr
        yield place


@pytest.fixture(scope="module")
def running(place: Place) -> Place:
    """With every service started, all at once, as compose does."""
    for name, program in services().items():
        place.start(name, program)
    return place


def test_migrating_again_changes_nothing(place: Place) -> None:
    def tables() -> list[Any]:
        with psycopg.connect((place.secrets / "postgres_owner_dsn").read_text()) as connection:
            return connection.execute("SELECT number, applied_at FROM schema_migrations ORDER BY number").fetchall()

    before = tables()
    assert before
    again = place.run(in_compose()["migrate"])
    assert (again.returncode, tables()) == (0, before)


def test_the_roles_that_compose_makes_have_passwords_and_no_more_rights_than_they_need(place: Place) -> None:
    with psycopg.connect((place.secrets / "postgres_owner_dsn").read_text()) as connection:
        found = connection.execute(
            "SELECT rolname, rolpassword LIKE 'SCRAM-SHA-256%', rolsuper OR rolcreatedb OR rolcreaterole "
            "FROM pg_authid WHERE rolname IN ('daybook_app', 'daybook_backup') ORDER BY rolname"
        ).fetchall()
    assert found == [("daybook_app", True, False), ("daybook_backup", True, False)]
    for name in ("postgres_dsn", "postgres_backup_dsn"):
        with psycopg.connect((place.secrets / name).read_text()) as connection:
            assert connection.execute("SELECT count(*) >= 0 FROM events").fetchone() == (True,)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM events")


@pytest.mark.parametrize("name", services())
def test_a_service_comes_up_in_the_image_and_says_so(running: Place, name: str) -> None:
    until(lambda: running.answers(name, "/health/live"), f"{name} lives")
    check = image_step("HEALTHCHECK")
    assert running.image.run(*check, PORT=str(running.ports[name])).returncode == 0
    until(lambda: running.answers(name, "/health/ready"), f"{name} is ready: {running.get(name, '/health/ready').text}")
    assert "daybook_" in running.get(name, "/metrics").text


def test_a_booking_goes_through_the_front_the_log_and_kafka_into_what_is_read(running: Place) -> None:
    for name in services():
        until(lambda name=name: running.answers(name, "/health/ready"), f"{name} is ready")  # type: ignore[misc]
    with front(running) as url, httpx.Client(base_url=url, timeout=30) as http:
        http.headers["Authorization"] = f"Bearer {token(running)}"
        location, visit = str(uuid4()), str(uuid4())
        days = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
        made = http.post(
            "/write/providers",
            json={
                "name": "Dr. Ada Example",
                "locations": [{"id": location, "name": "Elm Street", "time_zone": "Europe/Berlin"}],
                "visit_types": [{"id": visit, "name": "Check-up", "duration_minutes": 30}],
                "hours": [
                    {"location_id": location, "hours": {day: [{"start": "09:00", "end": "17:00"}] for day in days}}
                ],
            },
        )
        assert made.status_code == 201, made.text
        provider = made.json()["provider_id"]
        patient = http.post("/write/patients", json={}).json()
        slots = read(http, f"/read/slots?provider_id={provider}&visit_type_id={visit}", patient["position"])
        wish = {
            "patient_id": patient["patient_id"],
            "provider_id": provider,
            "location_id": location,
            "visit_type_id": visit,
            "start": slots.json()["slots"][0]["start"],
        }
        booked = http.post("/write/appointments", json=wish)
        assert booked.status_code == 201, booked.text
        refused = http.post("/write/appointments", json=wish)
        assert (refused.status_code, refused.json()["code"]) == (409, "slot_taken")
        seen = read(http, f"/read/appointments/{booked.json()['appointment_id']}", booked.json()["position"])
        assert seen.json()["start"] == wish["start"]


def read(http: httpx.Client, path: str, after: str) -> httpx.Response:
    """What is there once the position is reached; asked again for as long as the answer is to ask again."""
    answers: list[httpx.Response] = []

    def answered() -> bool:
        answers.append(http.get(path, headers={"Read-After": after}))
        return answers[-1].status_code != 503

    until(answered, f"{path} has caught up")
    assert answers[-1].status_code == 200, answers[-1].text
    return answers[-1]


def token(place: Place) -> str:
    minted = place.image.run(
        "daybook",
        "token",
        "--role",
        "admin",
        **{**place.environment(in_compose()["write-api"]), "DATA": str(place.folder)},
    )
    assert minted.returncode == 0, minted.stderr
    return minted.stdout.strip()


def front(place: Place) -> Any:
    return _Front(place)


class _Front:
    """Caddy, with the file that compose mounts."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> str:
        port = free_port()
        told = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._place.image.tmp),
            "FRONT_PORT": str(port),
            "WRITE_API": f"127.0.0.1:{self._place.ports['write-api']}",
            "READ_API": f"127.0.0.1:{self._place.ports['read-api']}",
        }
        command = [needs.program("caddy"), "run", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")]
        self._process = subprocess.Popen(command, env=told, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        until(lambda: _listens(url), "the front answers")
        return url

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/health/live")
    except httpx.TransportError:
        return False
    return True


def test_the_front_gives_both_apis_at_one_address_and_keeps_figures_inside(running: Place) -> None:
    for name in ("write-api", "read-api"):
        until(lambda name=name: running.answers(name, "/health/ready"), f"{name} is ready")  # type: ignore[misc]
    with front(running) as url:
        answers = {
            path: httpx.get(f"{url}{path}").status_code
            for path in ("/write/docs", "/read/docs", "/health/live", "/metrics", "/metrics/", "/nowhere")
        }
        asked = httpx.post(f"{url}/write/patients", json={})
    assert answers == {
        **{"/write/docs": 200, "/read/docs": 200, "/health/live": 200},
        **{"/metrics": 404, "/metrics/": 404, "/nowhere": 404},
    }
    assert (asked.status_code, asked.headers["content-type"]) == (401, "application/problem+json")


def test_a_backup_is_made_again_and_again_until_it_is_told_to_stop(running: Place) -> None:
    program = in_compose()["backup"]
    running.start("backup", program)
    folder = Path(running.arguments(program)[2])
    until(lambda: any(folder.rglob("*manifest*")), "a backup is there")
    assert running.stop("backup") == 0, running.log("backup").read_text()
    checked = running.image.run(
        "daybook", "backup", "verify", str(folder), "--json", DAYBOOK_KEYS=str(running.secrets / "keys")
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert json.loads(checked.stdout)["ok"] is True


def test_every_service_stops_when_it_is_told_to(running: Place) -> None:
    """The last test here: afterwards nothing runs. Whatever was written lies in tmp."""
    started = list(services())
    for name in started:
        until(lambda name=name: running.answers(name, "/health/live"), f"{name} lives")  # type: ignore[misc]
    assert {name: running.stop(name) for name in started} == dict.fromkeys(started, 0)
    for name in started:
        assert "Traceback" not in running.log(name).read_text(), running.log(name).read_text()[-3000:]
    size = sum(file.stat().st_size for file in running.image.tmp.rglob("*") if file.is_file())
    assert size < 32 * 1024 * 1024


def test_the_limit_of_tmp_in_compose_is_what_was_measured_against() -> None:
    for one in in_compose():
        assert "size=64m" in compose()["services"][one]["tmpfs"][0]
