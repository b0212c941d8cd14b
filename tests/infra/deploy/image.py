"""The image without a container engine: built by the Dockerfile's own steps into a folder, and its processes started as
they are in a container: the image's environment and no other, a user who owns nothing, and only /tmp to write to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import needs
from tests.infra.deploy.described import ROOT, build_context, image_arguments, image_environment, image_steps

USER = 10001


@dataclass(frozen=True)
class Image:
    """`home` is what the image's /opt/daybook is, `tmp` what its /tmp is."""

    home: Path
    tmp: Path

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """As the container's process has it, but for the places."""
        told = image_environment() | more
        told["PATH"] = f"{self.home}/bin:/usr/bin:/bin"
        return {name: str(self.tmp) if value == "/tmp" else value for name, value in told.items()}

    def command(self, words: Sequence[str]) -> list[str]:
        """To be run as the image's user, where this process may choose."""
        program = shutil.which(words[0], path=f"{self.home}/bin") or words[0]
        if os.geteuid() != 0:
            return [program, *words[1:]]
        user = ["--reuid", str(USER), "--regid", str(USER), "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
        return [needs.program("setpriv"), *user, program, *words[1:]]

    def run(self, *words: str, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(words),
            env=self.environment(environment),
            cwd=self.tmp,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def start(self, words: Sequence[str], environment: Mapping[str, str], **more: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(words), env=self.environment(environment), cwd=self.tmp, text=True, **more)


def build(folder: Path) -> Image:
    """Does what the first stage's RUN lines do, on what COPY would bring. `folder` may be walked to by everyone."""
    source, home, tmp = folder / "source", folder / "home", folder / "tmp"
    for path in build_context():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    uv = os.environ.get("UV") or needs.program("uv")
    told = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "VIRTUAL_ENV"))}
    told |= image_arguments() | image_environment(0)
    told |= {
        "PATH": f"{Path(uv).parent}:{os.environ['PATH']}",
        "UV_PROJECT_ENVIRONMENT": str(home),
        # What is fetched already need not be fetched or copied again: the files are the same.
        "UV_LINK_MODE": "hardlink",
        "UV_PYTHON": sys.base_prefix + f"/bin/python{sys.version_info.major}.{sys.version_info.minor}",
    }
    del told["UV_NO_CACHE"]
    for step in image_steps():
        if step.stage == 0 and step.name == "RUN" and step.text.startswith("uv "):
            done = subprocess.run(
                ["sh", "-c", step.text], cwd=source, env=told, capture_output=True, text=True, check=False, timeout=300
            )
            assert done.returncode == 0, done.stderr
    tmp.mkdir()
    if os.geteuid() == 0:
        os.chown(tmp, USER, USER)
    return Image(home, tmp)
