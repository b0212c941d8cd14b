"""Kafka 4.1, one node in KRaft mode. In: a folder. Out: a broker on a port of 127.0.0.1.

Measured on two cores: up in 3 s, 1 s more the first time; 300 MB. Everything that a cluster would keep three times is
kept once, and consumer groups form without the usual delay. Topics are not made by being used.
"""

from __future__ import annotations

import base64
import itertools
import shutil
import socket
import struct
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from infra.local import fetch, java
from infra.local.fetch import Report
from infra.local.server import LocalServer
from infra.troubles import CannotStart

JAVA = 17

_CONFIG = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=1500
broker.heartbeat.interval.ms=300
group.min.session.timeout.ms=1000
num.network.threads=2
num.io.threads=4
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.backoff.ms=5000
"""
_OPTIONS = (
    "-Xms96m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)

# The least request that only a broker in service answers with itself: Metadata, version 1, of no topic.
_METADATA = struct.pack(">hhih", 3, 1, 1, -1) + struct.pack(">i", 0)


class Kafka(LocalServer):
    """A broker; `bootstrap` is what clients are given. Needs Java 17 or newer, and Maven for the first fetch.

    One that is `short_lived` takes 3.4 s of a core to start and not 5.8, and more for each message."""

    name = "Kafka"
    port_names: ClassVar[tuple[str, ...]] = ("port", "controller")

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        die_with_me: bool = False,
        report: Report = lambda _: None,
        short_lived: bool = False,
    ) -> None:
        super().__init__(folder, port=port, die_with_me=die_with_me)
        self._report = report
        self._options_of_java = (*_OPTIONS, java.QUICK) if short_lived else _OPTIONS

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _prepare(self, ports: Mapping[str, int]) -> Sequence[str | Path]:
        program = java.find(JAVA, "Kafka") / "bin" / "java"
        jars = fetch.fetch(fetch.KAFKA, report=self._report)
        data = self.folder / "data"
        settings = self.folder / "server.properties"
        settings.write_text(_CONFIG.format(data=_escaped(data), **ports), "utf-8")
        classes = ("-cp", f"{jars}/*")
        if not (data / "meta.properties").exists():
            self._format([program, *_OPTIONS, java.QUICK, *classes], settings, data)
        return [program, *self._options_of_java, *classes, "kafka.Kafka", settings]

    def _format(self, start: Sequence[str | Path], settings: Path, data: Path) -> None:
        shutil.rmtree(data, ignore_errors=True)
        # As Kafka's own ids: one that began with a dash would be taken for an option.
        ids = (base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=") for _ in itertools.count())
        cluster = next(one for one in ids if not one.startswith("-"))
        done = subprocess.run(
            [*start, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", settings],
            check=False,
            capture_output=True,
            cwd=self.folder,
            umask=0o077,
        )
        if done.returncode:
            # Half a format would look like a whole one next time.
            shutil.rmtree(data, ignore_errors=True)
            said = (done.stdout + done.stderr).decode("utf-8", "replace").strip().splitlines()
            raise CannotStart(f"Kafka's data can't be made in {data}:\n" + "\n".join(said[-12:]))

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as broker:
                broker.sendall(struct.pack(">i", len(_METADATA)) + _METADATA)
                answer = broker.recv(12, socket.MSG_WAITALL)
        except OSError:
            return False
        return len(answer) == 12 and int.from_bytes(answer[8:], "big") == 1


def _escaped(path: Path) -> str:
    # Backslashes, and what is not Latin-1, mean something else in a properties file.
    return str(path).replace("\\", "\\\\").encode("ascii", "backslashreplace").decode()
