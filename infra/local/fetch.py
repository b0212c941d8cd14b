"""Servers from Maven, fetched once. In: what to fetch. Out: a folder in the cache that holds it, whole and checked.

Versions stand here and nowhere else. Each package is pinned by a digest over the names and SHA-256 sums of all its
files, so that neither a changed dependency nor a changed file slips in.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from infra.troubles import CannotStart

Report = Callable[[str], None]

_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_FETCHED_WITHIN = 1800.0
_PATIENCE = 3


@dataclass(frozen=True, slots=True)
class Package:
    """`artifacts` are Maven's `group:artifact:version` or `group:artifact:version:type`; what they depend on at run
    time comes with them. Archives of the type zip are unpacked. `megabytes` is what travels, roughly."""

    name: str
    version: str
    artifacts: tuple[str, ...]
    digest: str
    megabytes: int

    @property
    def folder(self) -> str:
        # The digest takes part, so that another pin fetches again.
        return f"{self.name.lower()}-{self.version}-{self.digest[:8]}"


KAFKA = Package(
    name="Kafka",
    version="4.1.0",
    artifacts=("org.apache.kafka:kafka_2.13:4.1.0", "org.slf4j:slf4j-simple:1.7.36"),
    digest="761379bf49cac30792df08bc54e3d687614b0854f7d91cad732afe590164cb7b",
    megabytes=43,
)
ELASTICSEARCH = Package(
    name="Elasticsearch",
    version="9.2.0",
    artifacts=("org.elasticsearch.distribution.integ-test-zip:elasticsearch:9.2.0:zip",),
    digest="2becafffb0abd88eda67a718bf658fc02acef746efd7b28d0bc13e0a8c9ea1e3",
    megabytes=99,
)


def cache_folder() -> Path:
    """`DAYBOOK_CACHE`, or `daybook` in the user's cache folder: shared by all data folders."""
    if named := os.environ.get("DAYBOOK_CACHE"):
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "daybook"


def is_fetched(package: Package, cache: Path | None = None) -> bool:
    return ((cache or cache_folder()) / package.folder).is_dir()


def fetch(package: Package, cache: Path | None = None, report: Report = lambda _: None) -> Path:
    """The folder with the package's files, fetched on first use. Several processes may ask at once: one fetches, the
    others wait. `report` hears what is going on, a line at a time. Raises `CannotStart`."""
    cache = cache or cache_folder()
    folder = cache / package.folder
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{package.folder}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        maven = _maven(package)
        report(f"Fetching {package.name} {package.version} from Maven, about {package.megabytes} MB …")
        # Made aside and renamed when whole, so that a kill in the middle leaves nothing half-made under the name.
        draft = Path(tempfile.mkdtemp(prefix=f".{package.folder}.", dir=cache))
        try:
            _download(maven, package, draft / "files")
            _check(package, draft / "files")
            _unpack(draft / "files")
            (draft / "files").chmod(0o755)
            (draft / "files").rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _maven(package: Package) -> str:
    found = shutil.which("mvn")
    if found is None:
        raise CannotStart(
            f"{package.name} comes from Maven, and the program mvn is missing. Install it (Debian: apt-get install "
            "maven; macOS: brew install maven)."
        )
    return found


def _download(maven: str, package: Package, target: Path) -> None:
    pom = target.parent / "pom.xml"
    pom.write_text(_pom(package), "utf-8")
    command: list[str | Path] = [
        maven,
        "-q",
        "-B",
        "-f",
        pom,
        _PLUGIN,
        f"-DoutputDirectory={target}",
        "-DincludeScope=runtime",
    ]
    for attempt in range(1, _PATIENCE + 1):
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, errors="replace", timeout=_FETCHED_WITHIN
            )
        except subprocess.TimeoutExpired as error:
            raise CannotStart(f"Maven did not fetch {package.name} within {_FETCHED_WITHIN:.0f} s.") from error
        if not done.returncode:
            return
        if attempt == _PATIENCE:
            said = "\n".join((done.stdout + done.stderr).strip().splitlines()[:12])
            raise CannotStart(
                f"Maven did not fetch {package.name} {package.version}. Is its repository within reach? "
                f"A mirror or a proxy is named in ~/.m2/settings.xml. It said:\n{said}"
            )


def _pom(package: Package) -> str:
    wanted = []
    for artifact in package.artifacts:
        group, name, version, kind = (*artifact.split(":"), "jar")[:4]
        wanted.append(
            f"<dependency><groupId>{escape(group)}</groupId><artifactId>{escape(name)}</artifactId>"
            f"<version>{escape(version)}</version><type>{escape(kind)}</type></dependency>"
        )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>daybook</groupId><artifactId>local-servers</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{''.join(wanted)}</dependencies></project>\n"
    )


def _check(package: Package, folder: Path) -> None:
    found = digest(folder)
    if found != package.digest:
        raise CannotStart(
            f"What Maven brought for {package.name} {package.version} is not what is expected: its digest is {found}. "
            "Empty the folder ~/.m2/repository and try again; if it stays so, the repository serves other files."
        )


def digest(folder: Path) -> str:
    """Over the names and SHA-256 sums of the files in a folder, in the order of their names."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def _unpack(folder: Path) -> None:
    for archive in folder.glob("*.zip"):
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                made = Path(content.extract(entry, folder))
                # Readable for whoever the server runs as; a program stays one.
                made.chmod(0o755 if entry.is_dir() or entry.external_attr >> 16 & 0o100 else 0o644)
        archive.unlink()
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            path.chmod(0o755 if path.is_dir() else 0o644)
