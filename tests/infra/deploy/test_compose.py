"""compose.yaml and what it brings along: valid, shut in, and started in an order that works."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import compose_spec
import jsonschema
import pytest
import yaml

from tests import needs
from tests.infra.deploy.described import DEPLOY, compose, ours

# What the stores' images write to beside their volumes, so that their root can't be read-only.
_WRITING = {"kafka", "elasticsearch", "kibana", "clickhouse"}
_WITHOUT_HEALTH = {"migrate", "backup", "elasticsearch-users", "jaeger"}
_ONCE = {"migrate", "elasticsearch-users"}
_SCREENS = {"kibana", "grafana", "prometheus", "jaeger", "mail"}


def services() -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"]
    return found


def test_it_fits_the_compose_specifications_schema() -> None:
    # The package's own program is not asked, so it need not be importable: its data is enough.
    spec = importlib.util.find_spec("check_jsonschema")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    schema = json.loads((folder / "builtin_schemas" / "vendor" / "compose-spec.json").read_text("utf-8"))
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(compose())] == []
    wrong = json.loads(json.dumps(compose()))
    wrong["services"]["relay"]["read_onyl"] = True
    assert list(validator.iter_errors(wrong))


def test_a_parser_that_knows_what_values_mean_takes_it() -> None:
    compose_spec.PyCompose.from_yaml(yaml.safe_dump(json.loads(json.dumps(compose()))))
    wrong = json.loads(json.dumps(compose()))
    wrong["services"]["front"]["ports"] = ["127.0.0.1:8000:port"]
    with pytest.raises(ValueError, match="ports"):
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(wrong))


def test_every_part_of_the_full_stack_is_there() -> None:
    images = {str(one["image"]).rpartition("/")[2].partition(":")[0] for one in services().values()}
    assert images >= {
        *("postgres", "redis", "kafka", "elasticsearch", "kibana", "clickhouse-server"),
        *("grafana", "prometheus", "mailpit", "jaeger", "caddy", "daybook"),
    }
    assert services()["relay"]["deploy"]["replicas"] == 2


def test_every_image_is_pinned() -> None:
    for name, one in services().items():
        tag = str(one["image"]).rpartition("/")[2].partition(":")[2]
        assert any(letter.isdigit() for letter in tag), name


def test_every_service_is_shut_in() -> None:
    for name, one in services().items():
        assert one["cap_drop"] == ["ALL"], name
        assert one.get("cap_add", []) in ([], ["NET_BIND_SERVICE"]), name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert one.get("read_only") is True or name in _WRITING, name
        assert set(one["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert one["restart"] == ("no" if name in _ONCE else "unless-stopped"), name
        assert "privileged" not in one
        assert not [volume for volume in one.get("volumes", ()) if "docker.sock" in str(volume)]
    for name, one in services().items():
        if ours(one):
            assert one["user"] == "10001:10001", name
            assert one["tmpfs"] == ["/tmp:size=64m,mode=1777"], name


def test_ports_are_published_on_the_loopback_alone_and_only_for_people() -> None:
    published = {name for name, one in services().items() if one.get("ports")}
    assert published == {"front"} | _SCREENS
    for name in published:
        for port in services()[name]["ports"]:
            assert port.startswith("127.0.0.1:"), name


def test_networks_keep_the_stores_from_the_world() -> None:
    networks = compose()["networks"]
    assert networks["data"] == {"internal": True}
    for name, one in services().items():
        expected = {"front"} if name == "front" else {"data"}
        if name in ("write-api", "read-api"):
            expected = {"front", "data"}
        if name in _SCREENS:
            expected = {"data", "tools"}
        assert set(one["networks"]) == expected, name


def test_whoever_waits_waits_for_something_that_is_told_of() -> None:
    for name, one in services().items():
        assert ("test" in one.get("healthcheck", {}) or ours(one)) or name in _WITHOUT_HEALTH, name
        for other, how in one.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert other not in _WITHOUT_HEALTH, (name, other)
            else:
                assert how["condition"] == "service_completed_successfully"
                assert other in _ONCE, (name, other)
    for name, one in services().items():
        if ours(one) and name != "migrate":
            assert one["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}, name


def test_secrets_come_as_files_and_every_service_has_its_own_alone() -> None:
    told = {name: part["file"] for name, part in compose()["secrets"].items()}
    used: set[str] = set()
    for name, one in services().items():
        mine = [part if isinstance(part, str) else part["source"] for part in one.get("secrets", ())]
        assert set(mine) <= set(told), name
        used |= set(mine)
        environment = one.get("environment", {})
        for variable, value in environment.items():
            assert "PASSWORD" not in variable or variable.endswith("_FILE"), (name, variable)
            assert not variable.endswith(("_DSN", "_URL")), (name, variable)
            assert "@" not in str(value).replace("1@kafka:9093", ""), (name, variable)
        if ours(one):
            files = {value for variable, value in environment.items() if variable.endswith("_FILE")}
            assert files == {f"/run/secrets/{part}" for part in mine}, name
    assert used == set(told)
    holders = {name for name, one in services().items() if "postgres_owner_dsn" in one.get("secrets", ())}
    assert holders == {"migrate"}


def test_every_file_that_is_mounted_is_there_or_made() -> None:
    made = {"./secrets/keys", "./checkpoints", "./backups"}
    for one in services().values():
        for volume in one.get("volumes", ()):
            if isinstance(volume, dict):
                assert volume["source"] in made or (DEPLOY / volume["source"]).exists(), volume
            else:
                assert volume.partition(":")[0] in compose()["volumes"], volume
    ignored = set((DEPLOY / ".gitignore").read_text("utf-8").splitlines())
    assert ignored == {"/secrets/", "/checkpoints/", "/backups/", "/.env"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the documented line has made the secrets."""
    folder = tmp_path_factory.mktemp("made")
    make_secrets(folder)
    return folder


def make_secrets(folder: Path) -> None:
    subprocess.run([str(DEPLOY / "make-secrets"), str(folder)], check=True, capture_output=True, timeout=30)


def test_one_line_makes_every_secret_closed_to_others(made: Path) -> None:
    for name, part in compose()["secrets"].items():
        assert (made / part["file"]).read_text("utf-8").strip(), name
    secrets = made / "secrets"
    assert secrets.stat().st_mode & 0o777 == 0o700
    owner = dict(line.split("=") for line in (made / ".env").read_text("utf-8").splitlines())
    assert set(owner) == {"DAYBOOK_UID", "DAYBOOK_GID"}
    assert int(owner["DAYBOOK_UID"]) != 0
    for key in (secrets / "keys").iterdir():
        assert (key.stat().st_mode & 0o777, key.stat().st_size) == (0o600, 32)
        assert key.stat().st_uid == int(owner["DAYBOOK_UID"])
    # Elasticsearch starts with no other mode.
    assert (secrets / "elastic_password").stat().st_mode & 0o777 == 0o600
    passwords = [file.read_text() for file in secrets.glob("*_password")]
    assert len(set(passwords)) == len(passwords)
    users = ElementTree.parse(secrets / "clickhouse-users.xml")
    assert users.findtext("users/daybook/password") == (secrets / "clickhouse_password").read_text()


def test_a_second_run_changes_nothing(made: Path) -> None:
    before = {file: file.read_bytes() for file in files(made)}
    make_secrets(made)
    assert {file: file.read_bytes() for file in files(made)} == before


@pytest.fixture
def plain() -> Iterator[Path]:
    """A folder that a user who is not root may walk to."""
    with tempfile.TemporaryDirectory(prefix="daybook-deploy-", dir="/tmp") as folder:
        yield Path(folder)


def test_a_user_who_is_not_root_may_run_it_twice(plain: Path) -> None:
    command = [str(plain / "make-secrets")]
    (plain / "make-secrets").write_bytes((DEPLOY / "make-secrets").read_bytes())
    (plain / "make-secrets").chmod(0o755)
    if os.geteuid() == 0:
        os.chown(plain, 65534, 65534)
        command = [needs.program("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, done.stderr
    assert (plain / "secrets" / "keys" / "master.key").stat().st_uid != 0


def files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def test_prometheus_asks_every_service_that_has_figures() -> None:
    asked = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    (job,) = [job for job in asked["scrape_configs"] if job["job_name"] == "daybook"]
    (names,) = job["dns_sd_configs"]
    expected = {name for name, one in services().items() if ours(one) and name not in _WITHOUT_HEALTH}
    assert set(names["names"]) == expected
    assert names["port"] == 8000


def test_grafana_finds_its_sources_where_compose_puts_them() -> None:
    read = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/daybook.yaml").read_text("utf-8"))
    sources: Mapping[str, Any] = {one["type"]: one for one in read["datasources"]}
    assert sources["prometheus"]["url"].startswith("http://prometheus:")
    password = sources["grafana-clickhouse-datasource"]["secureJsonData"]["password"]
    assert password == "$__file{/run/secrets/clickhouse_reader_password}"
    assert "clickhouse_reader_password" in services()["grafana"]["secrets"]
    boards = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/daybook.yaml").read_text("utf-8"))
    places = {mount["target"] for mount in services()["grafana"]["volumes"] if isinstance(mount, dict)}
    assert boards["providers"][0]["options"]["path"] in places
