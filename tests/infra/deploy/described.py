"""What `infra/deploy/` describes, as plain data: the image's steps, compose's services, Kubernetes' objects."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests import needs

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "infra" / "deploy"
OVERLAYS = ("development", "development/migrate", "production", "production/migrate")

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@dataclass(frozen=True)
class Program:
    """One command line of ours: `daybook` and these arguments, in this environment."""

    where: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(hash=False)

    @property
    def command(self) -> str:
        return self.arguments[0]


@functools.cache
def objects(overlay: str) -> Sequence[dict[str, Any]]:
    """An overlay's Kubernetes objects, rendered by the kustomize inside kubectl."""
    kubectl = needs.program("kubectl")
    rendered = subprocess.run(
        [kubectl, "kustomize", str(DEPLOY / "kubernetes" / "overlays" / overlay)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


def template(one: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pod template of a Deployment, Job or CronJob; None where an object has none."""
    spec = one.get("spec", {})
    found: dict[str, Any] | None = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    return found


def pods(overlay: str) -> list[tuple[str, dict[str, Any]]]:
    """Name (`Deployment/daybook-relay`) and pod template of everything that runs."""
    return [
        (f"{one['kind']}/{one['metadata']['name']}", found)
        for one in objects(overlay)
        if (found := template(one)) is not None
    ]


def named(overlay: str, kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in objects(overlay) if one["kind"] == kind}


@functools.cache
def compose() -> dict[str, Any]:
    """compose.yaml as compose sees it: variables in their places, anchors resolved."""

    def value(found: re.Match[str]) -> str:
        name, how, text = found.groups()
        given = {"DAYBOOK_UID": "10001", "DAYBOOK_GID": "10001"}
        if name in given:
            return given[name]
        assert how == "-", f"{name} has no default"
        return str(text)

    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    read: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(value, text))
    return {name: part for name, part in read.items() if not name.startswith("x-")}


def ours(service: Mapping[str, Any]) -> bool:
    return str(service["image"]).startswith("daybook:")


def programs() -> list[Program]:
    """Every command line of ours, wherever it is written."""
    found = [Program("Dockerfile", tuple(image_step("CMD")), image_environment())]
    for name, service in compose()["services"].items():
        if ours(service):
            environment = {key: str(value) for key, value in service["environment"].items()}
            found.append(Program(f"compose.yaml: {name}", tuple(service["command"]), environment))
    for overlay in OVERLAYS:
        settings = {one["metadata"]["name"]: one["data"] for one in objects(overlay) if one["kind"] == "ConfigMap"}
        for name, pod in pods(overlay):
            for container in pod["spec"]["containers"]:
                environment = {}
                for source in container.get("envFrom", ()):
                    environment |= settings[source["configMapRef"]["name"]]
                environment |= {one["name"]: one["value"] for one in container["env"]}
                found.append(Program(f"{overlay}: {name}", tuple(container["args"]), environment))
    return found


@dataclass(frozen=True)
class Step:
    """One instruction of the Dockerfile, in the stage of this number."""

    stage: int
    name: str
    text: str


@functools.cache
def image_steps() -> Sequence[Step]:
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    stage, steps = -1, []
    for line in whole.splitlines():
        name, _, rest = line.partition(" ")
        stage += name == "FROM"
        steps.append(Step(stage, name, rest.strip()))
    return steps


def image_step(name: str) -> list[str]:
    """The words of the final stage's only instruction of this name, written as JSON."""
    last = image_steps()[-1].stage
    (text,) = [step.text for step in image_steps() if step.name == name and step.stage == last]
    words: list[str] = yaml.safe_load(text[text.index("[") :])
    return words


def image_environment(stage: int = -1) -> dict[str, str]:
    """What ENV sets in a stage; the final one by default."""
    steps = image_steps()
    wanted = steps[-1].stage if stage == -1 else stage
    pairs = [word for step in steps if step.name == "ENV" and step.stage == wanted for word in shlex.split(step.text)]
    return dict(pair.split("=", 1) for pair in pairs)


def image_arguments() -> dict[str, str]:
    words = [shlex.split(step.text)[0] for step in image_steps() if step.name == "ARG"]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def build_context() -> Iterator[Path]:
    """The files that Dockerfile.dockerignore lets through, from the root. The last pattern that fits decides."""
    patterns = [
        line for line in (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"
    ]
    rules = [(line.removeprefix("!"), line.startswith("!")) for line in patterns]

    def kept(path: Path) -> bool:
        keep = True
        for pattern, include in rules:
            if any(_fits(part, pattern) for part in (path, *path.parents)):
                keep = include
        return keep

    tops = {pattern for pattern, include in rules if include}
    for top in sorted(tops):
        start = ROOT / top
        files = [start] if start.is_file() else start.rglob("*")
        yield from (file.relative_to(ROOT) for file in files if file.is_file() and kept(file.relative_to(ROOT)))


def _fits(path: Path, pattern: str) -> bool:
    if str(path) == ".":
        return False
    if pattern == "**":
        return True
    if pattern.startswith("**/"):
        return Path(path.name).match(pattern[3:])
    return str(path) == pattern
