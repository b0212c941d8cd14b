"""The Kubernetes manifests, as kubectl renders them: valid, and as closed as they claim to be."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.infra.deploy.described import DEPLOY, OVERLAYS, image_environment, named, objects, pods, programs

# The oldest on which these manifests are meant to run (a pause as a preStop hook), and the newest that is known.
VERSIONS = ("1.32", "1.37")
SERVICES = ("development", "production")

overlays = pytest.mark.parametrize("overlay", OVERLAYS)
services = pytest.mark.parametrize("overlay", SERVICES)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    fits = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    for one in selector.get("matchExpressions", ()):
        assert one["operator"] == "In"
        fits = fits and labels.get(one["key"]) in one["values"]
    return fits


@overlays
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(overlay: str, version: str) -> None:
    assert objects(overlay)
    for one in objects(overlay):
        kubernetes_validate.validate(one, version, strict=True)


def test_the_check_of_objects_finds_what_is_wrong() -> None:
    wrong = copy.deepcopy(named("production", "Deployment")["daybook-relay"])
    wrong["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


@overlays
def test_names_are_used_once_and_stand_in_the_overlays_namespace(overlay: str) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in objects(overlay)]
    assert len(set(names)) == len(names)
    (namespace,) = named(overlay, "Namespace")
    spaces = {one["metadata"]["namespace"] for one in objects(overlay) if one["kind"] != "Namespace"}
    assert spaces == {namespace}


@overlays
def test_every_object_and_pod_says_what_it_is(overlay: str) -> None:
    for one in objects(overlay):
        labels = one["metadata"]["labels"]
        assert {"app.kubernetes.io/part-of", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"} <= set(labels)
    for name, pod in pods(overlay):
        labels = pod["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "daybook", name
        assert name.endswith(f"daybook-{labels['app.kubernetes.io/component']}")


@overlays
def test_every_container_is_shut_in(overlay: str) -> None:
    assert pods(overlay)
    for name, pod in pods(overlay):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), name
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] >= 10000, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            resources = container["resources"]
            assert set(resources["limits"]) == set(resources["requests"]) == {"cpu", "memory"}, name
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            assert tag not in ("", "latest"), name
        assert not [volume for volume in spec["volumes"] if "hostPath" in volume], name


@overlays
def test_only_tmp_and_volumes_of_ones_own_are_written_to(overlay: str) -> None:
    """And what is set on the image's own root is not hidden by a mount."""
    for name, pod in pods(overlay):
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        (container,) = pod["spec"]["containers"]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert "emptyDir" in volumes[mounts[image_environment()["TMPDIR"]]["name"]], name
        for path, mount in mounts.items():
            kinds = set(volumes[mount["name"]]) - {"name"}
            assert mount.get("readOnly") or kinds <= {"emptyDir", "persistentVolumeClaim"}, (name, path)
        assert {mount["name"] for mount in mounts.values()} == set(volumes), name


@services
def test_every_deployment_is_probed_spread_and_ends_in_peace(overlay: str) -> None:
    for name, one in named(overlay, "Deployment").items():
        spec = one["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert container["startupProbe"]["httpGet"] == container["livenessProbe"]["httpGet"]
        assert container["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": "http"}, name
        assert container["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "http"}, name
        (port,) = container["ports"]
        settings = next(p.environment for p in programs() if p.where == f"{overlay}: Deployment/{name}")
        assert (port["name"], str(port["containerPort"])) == ("http", settings["PORT"])
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert spec["terminationGracePeriodSeconds"] >= pause + 30, name
        spread = {rule["topologyKey"]: rule for rule in spec["topologySpreadConstraints"]}
        assert set(spread) == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        for rule in spread.values():
            assert rule["labelSelector"] == one["spec"]["selector"], name


@services
def test_every_deployment_has_a_budget_and_an_account_of_its_own(overlay: str) -> None:
    deployments = named(overlay, "Deployment")
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in deployments.items()}
    budgets = named(overlay, "PodDisruptionBudget")
    for name, mine in labels.items():
        assert [b for b, one in budgets.items() if selects(one["spec"]["selector"], mine)] == [name]
        assert [d for d, one in deployments.items() if selects(one["spec"]["selector"], mine)] == [name]
    accounts = [pod["spec"]["serviceAccountName"] for _, pod in pods(overlay)]
    assert sorted(accounts) == sorted(named(overlay, "ServiceAccount"))
    for account in named(overlay, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


def egress(overlay: str, labels: Mapping[str, str]) -> set[int]:
    """The ports that a pod with these labels may reach in other namespaces."""
    return {
        port["port"]
        for policy in named(overlay, "NetworkPolicy").values()
        if selects(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get("egress", ())
        for port in rule["ports"]
    }


# Names, traces, and one port a store.
_ALWAYS = {53, 4318}
_STORES = {
    "POSTGRES_DSN": 5432,
    "KAFKA_PASSWORD": 9093,
    "REDIS_URL": 6379,
    "CLICKHOUSE_URL": 8443,
    "ELASTICSEARCH_URL": 9200,
}


@overlays
def test_a_pod_reaches_the_stores_whose_addresses_it_has_and_nothing_else(overlay: str) -> None:
    nothing = named(overlay, "NetworkPolicy")["nothing"]["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    environments = {program.where: program.environment for program in programs()}
    for name, pod in pods(overlay):
        told = environments[f"{overlay}: {name}"]
        wanted = {port for store, port in _STORES.items() if f"DAYBOOK_{store}_FILE" in told}
        assert ("DAYBOOK_KAFKA" in told) == ("DAYBOOK_KAFKA_PASSWORD_FILE" in told), name
        assert egress(overlay, pod["metadata"]["labels"]) == _ALWAYS | wanted, name


@overlays
def test_every_way_leads_to_named_places(overlay: str) -> None:
    for name, policy in named(overlay, "NetworkPolicy").items():
        for direction, side in (("ingress", "from"), ("egress", "to")):
            for rule in policy["spec"].get(direction, ()):
                assert rule[side], name
                assert rule["ports"], name


@services
def test_only_the_apis_are_reached_from_outside(overlay: str) -> None:
    front = named(overlay, "NetworkPolicy")["front"]["spec"]["podSelector"]
    reached = {name for name, pod in pods(overlay) if selects(front, pod["metadata"]["labels"])}
    assert reached == {"Deployment/daybook-write-api", "Deployment/daybook-read-api"}
    (ingress,) = named(overlay, "Ingress").values()
    (rule,) = ingress["spec"]["rules"]
    assert ingress["spec"]["tls"] == [{"hosts": [rule["host"]], "secretName": "daybook-tls"}]
    backends = {path["path"]: path["backend"]["service"]["name"] for path in rule["http"]["paths"]}
    assert backends == {
        "/write": "daybook-write-api",
        "/oauth": "daybook-write-api",
        "/.well-known": "daybook-write-api",
        "/": "daybook-read-api",
        "/health": "daybook-closed",
        "/metrics": "daybook-closed",
    }
    assert "selector" not in named(overlay, "Service")["daybook-closed"]["spec"]
    for name, service in named(overlay, "Service").items():
        chosen = service["spec"].get("selector")
        found = {
            p for p, pod in pods(overlay) if chosen and selects({"matchLabels": chosen}, pod["metadata"]["labels"])
        }
        assert found == ({f"Deployment/{name}"} if chosen else set())


@overlays
def test_secrets_are_named_and_never_told(overlay: str) -> None:
    assert not named(overlay, "Secret")
    for one in named(overlay, "ConfigMap").values():
        assert not [name for name in one["data"] if name.endswith(("_DSN", "_URL", "_PASSWORD"))]
    for name, pod in pods(overlay):
        for container in pod["spec"]["containers"]:
            for variable in container["env"]:
                assert set(variable) == {"name", "value"}, (name, variable["name"])
                assert not variable["name"].endswith(("_DSN", "_URL", "_PASSWORD")), (name, variable["name"])


def sources(pod: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every Secret that a pod mounts: where its volume is mounted, and the Secret."""
    (container,) = pod["spec"]["containers"]
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    for volume in pod["spec"]["volumes"]:
        if "secret" in volume:
            yield places[volume["name"]], volume["secret"]
        for source in volume.get("projected", {}).get("sources", ()):
            yield places[volume["name"]], source["secret"]


@overlays
def test_every_file_that_a_setting_names_is_mounted_and_no_other(overlay: str) -> None:
    environments = {program.where: program.environment for program in programs()}
    for name, pod in pods(overlay):
        told = environments[f"{overlay}: {name}"]
        files = {f"{place}/{item['path']}" for place, secret in sources(pod) for item in secret["items"]}
        asked = {value for variable, value in told.items() if variable.endswith("_FILE")}
        keys = {file for file in files if file.startswith(f"{told['DAYBOOK_KEYS']}/")}
        assert files - keys == asked, name
        (container,) = pod["spec"]["containers"]
        paths = {mount["mountPath"] for mount in container["volumeMounts"]}
        for folder in ("DAYBOOK_CHECKPOINTS", "DAYBOOK_BACKUPS"):
            assert told.get(folder, "/tmp") in paths, name
        if "DAYBOOK_KAFKA_CA" in told:
            assert told["DAYBOOK_KAFKA_CA"].rpartition("/")[0] in paths, name
        for volume in pod["spec"]["volumes"]:
            mode = volume.get("secret", volume.get("projected", {})).get("defaultMode", 0o440)
            assert mode == 0o440, name
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claim in named(overlay, "PersistentVolumeClaim"), name


@overlays
def test_the_owners_address_and_private_keys_are_with_those_who_need_them(overlay: str) -> None:
    holders: dict[str, set[str]] = {}
    for _, pod in pods(overlay):
        for _, secret in sources(pod):
            for item in secret["items"]:
                what = f"{secret.get('name', secret.get('secretName'))}/{item['key']}"
                holders.setdefault(what, set()).add(pod["metadata"]["labels"]["app.kubernetes.io/component"])
    assert holders.get("daybook-postgres-owner/dsn", {"migrate"}) == {"migrate"}
    assert holders.get("daybook-keys/checkpoints.ed25519", {"jobs", "backup"}) == {"jobs", "backup"}
    assert holders.get("daybook-keys/tokens.ed25519", {"write-api", "read-api"}) == {"write-api", "read-api"}


def test_the_migration_and_the_services_of_an_overlay_have_the_same_settings() -> None:
    for overlay in SERVICES:
        assert named(overlay, "ConfigMap") == named(f"{overlay}/migrate", "ConfigMap")


def test_workers_are_scaled_by_their_own_models_lag() -> None:
    scalers = named("production", "HorizontalPodAutoscaler")
    workers = {
        f"daybook-worker-{pod['spec']['containers'][0]['args'][1].replace('_', '-')}": pod["spec"]["containers"][0][
            "args"
        ]
        for name, pod in pods("production")
        if "daybook-worker" in name
    }
    assert set(scalers) == set(workers)
    adapter = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yaml").read_text("utf-8"))
    (rule,) = adapter["rules"]["external"]
    for name, scaler in scalers.items():
        spec = scaler["spec"]
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert "replicas" not in named("production", "Deployment")[name]["spec"]
        (metric,) = spec["metrics"]
        asked = metric["external"]["metric"]
        assert asked["name"] == rule["name"]["as"]
        assert asked["selector"]["matchLabels"] == {"model": workers[name][1]}
        assert rule["seriesQuery"].startswith(asked["name"])
        assert 2 <= spec["minReplicas"] <= spec["maxReplicas"]
    assert not named("development", "HorizontalPodAutoscaler")


def test_the_manifests_hold_nothing_that_looks_like_a_password() -> None:
    text = json.dumps([list(objects(overlay)) for overlay in OVERLAYS])
    for public in ("http://traces.monitoring:4318", "https://daybook.example.org"):
        text = text.replace(public, "")
    assert "://" not in text
