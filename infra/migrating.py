"""Brings every store of the full stack to its newest shape. In: settings. Out: what was done, store by store.

A store that its settings don't name is passed by, so that a part of the stack can be prepared alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg

from infra.event_log.schema import migrate
from infra.settings import Settings
from infra.troubles import CannotStart


@dataclass(frozen=True, slots=True)
class Step:
    what: str
    done: str


def migrated(settings: Settings) -> Iterator[Step]:
    """Raises `CannotStart` where a store does not answer; what came before it is done and stays."""
    yield Step("postgres", _postgres(settings.postgres_owner_dsn or ""))


def _postgres(dsn: str) -> str:
    try:
        applied = migrate(dsn)
    except psycopg.Error as error:
        raise CannotStart(f"Postgres could not be migrated: {type(error).__name__} {error.sqlstate or ''}.") from error
    return f"migrations {', '.join(map(str, applied))} applied" if applied else "nothing to do"
