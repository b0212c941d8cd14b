"""A real search server is started, killed and started again on its data, and nobody but us reaches it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from elasticsearch import Elasticsearch as Client

from infra.local.elasticsearch import Elasticsearch
from infra.local.fetch import ELASTICSEARCH
from tests import needs


@pytest.fixture
def server() -> Iterator[Elasticsearch]:
    needs.java(21)
    needs.maven(ELASTICSEARCH)
    # Not below pytest's own folder, which every other run of pytest shuts again for the user that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="daybook-elasticsearch-", dir="/tmp"))
    server = Elasticsearch(folder, die_with_me=True, short_lived=True)
    yield server
    server.kill()
    shutil.rmtree(folder)


def test_what_was_acknowledged_outlives_a_kill_on_the_same_port(server: Elasticsearch) -> None:
    server.start()
    port = server.port
    with Client(server.url) as client:
        client.indices.create(index="providers", mappings={"properties": {"name": {"type": "text"}}})
        client.index(index="providers", id="1", document={"name": "Dr. Ada Grey"}, version=7, version_type="external")
    server.kill()
    assert not server.alive()
    server.start()
    assert server.port == port
    with Client(server.url) as client:
        client.indices.refresh(index="providers")
        found = client.search(index="providers", query={"match": {"name": {"query": "gray", "fuzziness": 1}}})
        assert [hit["_id"] for hit in found["hits"]["hits"]] == ["1"]
    if os.geteuid() == 0:
        assert server.pid is not None
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
