"""Providers by what somebody needs, the one who is free earliest first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import to_json
from starlette.responses import Response

from domain.access import Role
from domain.provider import WRITABLE, Mode
from infra.http.problems import Refused
from projections.directory import Entry, Question, folded
from read_api.asking import Asked
from read_api.describing import answers
from read_api.parameters import Cursor, Limit
from read_api.providers import ProviderSummary

router = APIRouter(tags=["providers"])


class NoDirectory(Refused):
    """This installation keeps no directory."""

    code = "no_directory"
    status = 404


class NextFree(BaseModel):
    """The earliest free times of a visit type at a location: the visits' starts, UTC. Where a room or a device is
    needed besides, the provider is free then; `/read/slots` says of named ones whether they are."""

    visit_type_id: UUID
    location_id: UUID
    starts: list[datetime]


class ListedProvider(ProviderSummary):
    """`next_free` is the earliest of `openings`, which are those that were asked for."""

    next_free: datetime | None
    openings: list[NextFree]


class DirectoryPage(BaseModel):
    """`next` is the cursor of the page that follows; null when this is the last."""

    providers: list[ListedProvider]
    next: str | None = Field(description="the cursor of the page that follows")


def _meant(words: str) -> str:
    if not folded(words):
        raise ValueError("a word holds a letter or a digit")
    return words


Word = Annotated[str, Query(min_length=1, max_length=200), WRITABLE, AfterValidator(_meant)]


@router.get("/providers/directory", response_model=DirectoryPage, **answers(404))
async def read_directory(
    asked: Asked,
    specialty: Annotated[Word | None, Query(description="the code of a specialty (NUCC), or its name")] = None,
    language: Annotated[Word | None, Query(description="a language tag (BCP 47); `de` finds `de-AT` too")] = None,
    insurer: Annotated[Word | None, Query(description="the name of an insurer")] = None,
    visit_type_id: UUID | None = None,
    location_id: UUID | None = None,
    mode: Annotated[Mode | None, Query(description="visits that are offered this way")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """Providers who fit, the one who is free earliest first; those without a free time in the next two months come
    last. Words are compared without accents and capitals. Of each visit type and location the next few free times are
    listed, found by the rules that booking applies. A patient is shown what patients may book.
    """
    asked.may("read_provider")
    library = asked.library
    directory = library.directory
    if directory is None:
        raise NoDirectory("This installation keeps no directory.")
    words = [None if word is None else folded(word) for word in (specialty, language, insurer)]
    for_patients = asked.actor.role is Role.PATIENT
    # A page goes on from another only with the same question.
    listing = f"directory/{to_json([*words, visit_type_id, location_id, mode, for_patients]).decode()}"
    after = None
    if cursor is not None:
        at, provider_id = library.cursors.read(listing, asked.organization, cursor)
        after = (at, UUID(provider_id))
    question = Question(
        specialty=specialty,
        language=language,
        insurer=insurer,
        visit_type_id=visit_type_id,
        location_id=location_id,
        mode=mode,
        for_patients=for_patients,
        after=after,
        limit=limit + 1,
    )
    position = await asked.caught_up(directory)
    found = await directory.find(asked.organization, question)
    following = None
    if len(found) > limit:
        last = found[limit - 1]
        following = library.cursors.make(listing, asked.organization, [last.at, last.entry.provider_id])
    now = library.clock.now()
    providers = [_listed(one.entry, question, now) for one in found[:limit]]
    return asked.answer(DirectoryPage(providers=providers, next=following), position)


def _listed(entry: Entry, question: Question, now: datetime) -> ListedProvider:
    openings = list(_openings(entry, question, now))
    told: dict[str, Any] = entry.model_dump(include={"name", "specialties", "languages", "insurers", "provider_id"})
    return ListedProvider(
        **told,
        locations=list(entry.locations),
        visit_types=list(entry.visit_types),
        next_free=min((one.starts[0] for one in openings if one.starts), default=None),
        openings=openings,
    )


def _openings(entry: Entry, question: Question, now: datetime) -> Iterator[NextFree]:
    for kind, times in entry.offers():
        if question.wants(kind, times):
            # What passed in the last moments may still be listed.
            starts = [start for start in times.starts if start >= now]
            yield NextFree(visit_type_id=kind.id, location_id=times.location_id, starts=starts)
