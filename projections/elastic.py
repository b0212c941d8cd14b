"""An index of the directory in Elasticsearch 9. In and out: what `projections.directory.Index` says.

Each generation is an index `daybook-directory-000001`, `-000002` …, made from one template; the alias
`daybook-directory` stands for the live one. How far each part of the log has come stands in documents beside the
entries, so that who loses the index loses both. Entries carry the log's positions as external versions and are never
removed, so that the latest knowledge stays whatever order it comes in; progress is compared and set.

Nothing here needs more than a plain server: accents are folded before they come, and there are no scripts, no language
analyzers and no updates or deletes by query.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from copy import copy
from datetime import date, datetime
from functools import wraps
from time import monotonic
from typing import Any, Final, ParamSpec, Self, TypeVar
from uuid import UUID

from elasticsearch import (
    ApiError,
    AsyncElasticsearch,
    BadRequestError,
    ConflictError,
    NotFoundError,
    TransportError,
)

from projections.directory import NEVER, Entry, Found, IndexAway, Key, Made, Question, Spoilt, Standing, at, folded
from projections.model import OutOfStep

P = ParamSpec("P")
T = TypeVar("T")

ALIAS: Final = "daybook-directory"

# Other processes swap generations; for as long as this, seconds, an answer may still come from the one before.
_POINTER_AGE: Final = 1.0
# How long a shard that is not there is waited for.
_WAIT: Final = "5s"
_PARTS: Final = "parts"

_KEYWORD: Final = {"type": "keyword"}
_WORDS: Final = {"type": "text", "analyzer": "words"}
_MAPPINGS: Final[Mapping[str, Any]] = {
    "dynamic": "strict",
    "properties": {
        # Of progress.
        "part": _KEYWORD,
        "upto": {"type": "long"},
        # Of entries.
        "organization": _KEYWORD,
        "provider_id": _KEYWORD,
        "gone": {"type": "boolean"},
        "reaches": {"type": "date", "format": "strict_date"},
        "good_until": {"type": "date", "format": "strict_date_optional_time"},
        "name": _WORDS,
        "specialty": _KEYWORD,
        "specialty_words": _WORDS,
        "language": _KEYWORD,
        "insurer": _KEYWORD,
        "place": _WORDS,
        "country": _KEYWORD,
        "subdivision": _KEYWORD,
        "time_zone": _KEYWORD,
        "point": {"type": "geo_point"},
        "next": {"type": "long"},
        "offers": {
            "type": "nested",
            "properties": {
                "visit_type_id": _KEYWORD,
                "visit_type": _WORDS,
                "location_id": _KEYWORD,
                "mode": _KEYWORD,
                "minutes": {"type": "integer"},
                "self_bookable": {"type": "boolean"},
                "approval_needed": {"type": "boolean"},
                "needs": _KEYWORD,
                "starts": {"type": "date", "format": "strict_date_optional_time"},
                "next": {"type": "long"},
            },
        },
        # What is answered, as it is.
        "entry": {"type": "object", "enabled": False},
    },
}


class EntryRefused(Exception):
    """Elasticsearch can't take an entry as it is: it does not fit the mapping. Names the kind of the fault alone."""


def _reaching(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """What the client raises, in the words of the port."""

    @wraps(method)
    async def reached(*given: P.args, **named: P.kwargs) -> T:
        try:
            return await method(*given, **named)
        except ApiError as error:
            raise IndexAway(str(error.error), error.status_code) from error
        except TransportError as error:
            raise IndexAway(type(error).__name__) from error

    return reached


async def migrate(client: AsyncElasticsearch, *, alias: str = ALIAS) -> None:
    """Put the template that every index of the directory is made from. Asked again, it changes nothing."""
    await client.indices.put_index_template(
        name=alias,
        index_patterns=[f"{alias}-*"],
        # An index that is gone does not come back by a write, empty and without its mapping.
        allow_auto_create=False,
        template={
            "settings": {
                "number_of_shards": 1,
                "auto_expand_replicas": "0-1",
                # Every write of entries refreshes, once for many, before its progress is written.
                "refresh_interval": "-1",
                "analysis": {
                    "analyzer": {"words": {"type": "custom", "tokenizer": "standard", "filter": ["lowercase"]}}
                },
            },
            "mappings": dict(_MAPPINGS),
        },
    )


class ElasticIndex:
    """`client` needs no retries of its own: whoever fills tries again, and whoever asks is told."""

    def __init__(self, client: AsyncElasticsearch, *, alias: str = ALIAS) -> None:
        self._client = client
        self._alias = alias
        self._pinned: str | None = None
        self._live: str | None = None
        self._looked = float("-inf")
        # Where each part stands, with the sequence number and the primary term of what says so.
        self._seen: dict[str, tuple[int, int, int]] = {}

    # Generations

    async def _name(self) -> str | None:
        """The index to ask and to write; None when there is none."""
        if self._pinned is not None:
            return self._pinned
        if self._live is None or monotonic() - self._looked > _POINTER_AGE:
            live = await self._behind_alias()
            if live != self._live:
                self._live, self._seen = live, {}
            self._looked = monotonic()
        return self._live

    async def _behind_alias(self) -> str | None:
        try:
            found = await self._client.indices.get_alias(name=self._alias)
        except NotFoundError:
            return None
        return max(found)

    async def _made(self) -> str:
        """The index to write to, which is made when it is not there."""
        if (name := await self._name()) is not None:
            return name
        await migrate(self._client, alias=self._alias)
        first = f"{self._alias}-{1:06}"
        await self._create(first)
        await self._client.indices.put_alias(index=first, name=self._alias)
        self._astray()
        if (name := await self._name()) is None:
            raise OutOfStep(0)
        return name

    async def _create(self, name: str) -> None:
        """Make an index, and wait until it answers. Two may do so at the same moment."""
        try:
            await self._client.indices.create(index=name)
        except BadRequestError as error:
            if error.error != "resource_already_exists_exception":
                raise
            await self._client.cluster.health(index=name, wait_for_status="yellow", timeout=_WAIT)

    def _astray(self) -> None:
        self._live, self._looked, self._seen = None, float("-inf"), {}

    @_reaching
    async def next_generation(self) -> Self:
        await self.clean()
        await migrate(self._client, alias=self._alias)
        live = await self._behind_alias()
        made = copy(self)
        made._pinned, made._seen = f"{self._alias}-{(_number(live) if live else 1) + 1:06}", {}
        await self._create(made._pinned)
        return made

    @_reaching
    async def go_live(self) -> None:
        if self._pinned is None:
            return
        actions: list[dict[str, Any]] = [{"add": {"index": self._pinned, "alias": self._alias}}]
        if (live := await self._behind_alias()) is not None:
            actions.insert(0, {"remove": {"index": live, "alias": self._alias}})
        await self._client.indices.update_aliases(actions=actions)
        self._live, self._looked, self._pinned = self._pinned, monotonic(), None

    @_reaching
    async def clean(self) -> None:
        self._looked = float("-inf")
        live = await self._behind_alias()
        found = await self._client.indices.get(index=f"{self._alias}-*", features=["aliases"], expand_wildcards="all")
        for name in found:
            if name != live and name.removeprefix(f"{self._alias}-").isdigit():
                await self._client.indices.delete(index=name, ignore_unavailable=True)

    # Progress

    @_reaching
    async def positions(self) -> Mapping[str, int]:
        self._looked = float("-inf")
        self._seen = {}
        name = await self._name()
        if name is None:
            return {}
        (parts,) = await self._get(name, [_PARTS], ["part"])
        if parts is not None:
            known = parts["_source"]["part"]
            for part, found in zip(known, await self._get(name, map(_progress, known), ["upto"]), strict=True):
                if found is not None:
                    self._seen[part] = (found["_source"]["upto"], found["_seq_no"], found["_primary_term"])
        return {part: upto for part, (upto, _, _) in self._seen.items()}

    @_reaching
    async def stand(self, positions: Mapping[str, tuple[int, int]]) -> None:
        name = await self._made()
        if any(part not in self._seen for part in positions):
            await self.positions()
        known = {part: self._seen.get(part, (0, 0, 0)) for part in positions}
        for part, (before, _) in positions.items():
            if known[part][0] != before:
                raise OutOfStep(known[part][0])
        if any(part not in self._seen for part in positions):
            await self._add_parts(name, positions)
        operations: list[dict[str, Any]] = []
        for part, (_, after) in positions.items():
            action: dict[str, Any] = {"create": {"_id": _progress(part)}}
            if part in self._seen:
                _, number, term = known[part]
                action = {"index": {"_id": _progress(part), "if_seq_no": number, "if_primary_term": term}}
            operations += [action, {"upto": after}]
        for part, item in zip(positions, await self._bulk(name, operations), strict=True):
            if item["status"] == 409:
                self._astray()
                raise OutOfStep((await self.positions()).get(part, 0))
            self._refuse(item)
            self._seen[part] = (positions[part][1], item["_seq_no"], item["_primary_term"])

    async def _add_parts(self, name: str, parts: Collection[str]) -> None:
        """Say which parts there are, so that their progress can be read by name, without waiting for a refresh."""
        while True:
            (found,) = await self._get(name, [_PARTS], ["part"])
            known = set() if found is None else set(found["_source"]["part"])
            if known.issuperset(parts):
                return
            there: dict[str, Any] = {"op_type": "create"}
            if found is not None:
                there = {"if_seq_no": found["_seq_no"], "if_primary_term": found["_primary_term"]}
            try:
                await self._client.index(
                    index=name, id=_PARTS, document={"part": sorted(known.union(parts))}, timeout=_WAIT, **there
                )
            except ConflictError:
                # Another filler's parts came first; there are few of them.
                continue
            except NotFoundError:
                self._astray()
                raise OutOfStep(0) from None

    # Entries

    @_reaching
    async def standing(self, keys: Sequence[Key]) -> Sequence[Standing | None]:
        name = await self._name()
        if name is None or not keys:
            return [None for _ in keys]
        found = await self._get(name, map(_id, keys), ["reaches", "good_until"])
        return [None if one is None else _standing(one) for one in found]

    @_reaching
    async def write(self, made: Sequence[Made]) -> Sequence[Spoilt]:
        if not made:
            return ()
        operations: list[dict[str, Any]] = []
        for one in made:
            known = {"version": one.standing.version, "version_type": "external_gte"}
            operations += [{"index": {"_id": _id(one.entry.key), **known}}, _document(one)]
        spoilt: list[Spoilt] = []
        items = await self._bulk(await self._made(), operations, refresh=True)
        for one, item in zip(made, items, strict=True):
            if item["status"] == 400:
                spoilt.append(Spoilt(one.entry.key, EntryRefused(item["error"]["type"])))
            elif item["status"] != 409:  # a conflict says that a later version is there
                self._refuse(item)
        return spoilt

    async def _bulk(
        self, name: str, operations: Sequence[Mapping[str, Any]], *, refresh: bool = False
    ) -> Sequence[dict[str, Any]]:
        answer = await self._client.bulk(index=name, operations=operations, refresh=refresh, timeout=_WAIT)
        return [next(iter(item.values())) for item in answer["items"]]

    def _refuse(self, item: Mapping[str, Any]) -> None:
        """Raise what a part of a bulk request says, unless it was done."""
        if item["status"] == 404:
            self._astray()
            raise OutOfStep(0)
        if item["status"] >= 300:
            raise IndexAway(item["error"]["type"], item["status"])

    async def _get(self, name: str, ids: Iterable[str], fields: Sequence[str]) -> Sequence[Any]:
        """Documents as they were last written, refreshed or not; None for one that is not there."""
        wanted = list(ids)
        if not wanted:
            return ()
        try:
            answer = await self._client.mget(index=name, ids=wanted, source_includes=list(fields))
        except NotFoundError:
            self._astray()
            return [None for _ in wanted]
        found: list[Any] = []
        for one in answer["docs"]:
            kind = one.get("error", {}).get("type")
            if kind not in (None, "index_not_found_exception"):
                raise IndexAway(kind, 503)
            found.append(one if one.get("found") else None)
        return found

    # Questions

    @_reaching
    async def stale(self, now: datetime, limit: int) -> Sequence[Key]:
        hits = await self._search(
            query={"range": {"good_until": {"lte": now.isoformat()}}},
            sort=[{"good_until": "asc"}],
            source=["organization", "provider_id"],
            size=limit,
        )
        return [(one["_source"]["organization"], UUID(one["_source"]["provider_id"])) for one in hits]

    @_reaching
    async def find(self, organization: str, question: Question) -> Sequence[Found]:
        offers: list[Any] = []
        for field, wanted in (
            ("visit_type_id", question.visit_type_id and str(question.visit_type_id)),
            ("location_id", question.location_id and str(question.location_id)),
            ("mode", question.mode and question.mode.value),
            ("self_bookable", question.for_patients or None),
        ):
            if wanted is not None:
                offers.append({"term": {f"offers.{field}": wanted}})
        filters: list[Any] = [{"term": {"organization": organization}}, {"term": {"gone": False}}]
        for field, word in (
            ("specialty", question.specialty),
            ("language", question.language),
            ("insurer", question.insurer),
        ):
            if word is not None:
                filters.append({"term": {field: folded(word)}})
        earliest: dict[str, Any] = {"next": {"order": "asc"}}
        if offers:
            asked = {"bool": {"filter": offers}}
            filters.append({"nested": {"path": "offers", "query": asked}})
            nested = {"path": "offers", "filter": asked}
            earliest = {"offers.next": {"order": "asc", "mode": "min", "nested": nested}}
        after = None if question.after is None else [question.after[0], str(question.after[1])]
        hits = await self._search(
            query={"bool": {"filter": filters}},
            sort=[earliest, {"provider_id": "asc"}],
            source=["entry"],
            size=question.limit,
            **({"search_after": after} if after else {}),
        )
        return [Found(Entry.model_validate(one["_source"]["entry"]), one["sort"][0]) for one in hits]

    async def _search(self, **asked: Any) -> Sequence[Any]:
        """The hits; none while nothing has been filled yet."""
        name = await self._name()
        if name is None:
            return ()
        try:
            # What half of the shards say is not the answer.
            answer = await self._client.search(
                index=name, allow_partial_search_results=False, track_total_hits=False, **asked
            )
        except NotFoundError:
            self._astray()
            return ()
        hits: Sequence[Any] = answer["hits"]["hits"]
        return hits


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _progress(part: str) -> str:
    return f"progress/{part}"


def _id(key: Key) -> str:
    organization, provider_id = key
    return f"entry/{organization}/{provider_id}"


def _standing(document: Mapping[str, Any]) -> Standing:
    told = document["_source"]
    until = told.get("good_until")
    return Standing(
        document["_version"],
        date.fromisoformat(told["reaches"]),
        None if until is None else datetime.fromisoformat(until),
    )


def _document(made: Made) -> dict[str, Any]:
    entry, standing = made
    told: dict[str, Any] = {
        "organization": entry.organization,
        "provider_id": str(entry.provider_id),
        "gone": entry.gone,
        "reaches": standing.reaches.isoformat(),
        "name": folded(entry.name),
        "specialty": sorted(entry.specialty_terms()),
        "specialty_words": [folded(one.name) for one in entry.specialties],
        "language": sorted(entry.language_terms()),
        "insurer": sorted(entry.insurer_terms()),
        "place": [folded(f"{one.name} {one.address}") for one in entry.locations],
        "country": [one.country for one in entry.locations if one.country],
        "subdivision": [one.subdivision for one in entry.locations if one.subdivision],
        "time_zone": [one.time_zone for one in entry.locations],
        "point": [
            {"lat": float(one.latitude), "lon": float(one.longitude)}
            for one in entry.locations
            if one.latitude is not None and one.longitude is not None
        ],
        "next": min((at(times) for _, times in entry.offers()), default=NEVER),
        "offers": [
            {
                "visit_type_id": str(kind.id),
                "visit_type": folded(kind.name),
                "location_id": str(times.location_id),
                "mode": list(kind.modes),
                "minutes": kind.duration_minutes,
                "self_bookable": kind.self_bookable,
                "approval_needed": kind.approval_needed,
                "needs": list(kind.needs),
                "starts": [start.isoformat() for start in times.starts],
                "next": at(times),
            }
            for kind, times in entry.offers()
        ],
        "entry": entry.model_dump(mode="json"),
    }
    if standing.good_until is not None:
        told["good_until"] = standing.good_until.isoformat()
    return told
