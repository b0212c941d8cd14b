"""Query parameters that a route does not know are refused: a filter with a slip in its name would be a filter ignored.

In: a request and its route. Out: nothing, or one refusal that names every unknown parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request

# By the function that answers.
_known: WeakKeyDictionary[Callable[..., Any], frozenset[str]] = WeakKeyDictionary()


async def only_known(request: Request) -> None:
    """A dependency of a whole API. Raises `RequestValidationError`."""
    if not request.scope["query_string"]:
        return
    route: Any = request.scope["route"]
    known = _known.get(route.endpoint)
    if known is None:
        known = _known[route.endpoint] = frozenset(_names(route.dependant))
    if unknown := [name for name in request.query_params if name not in known]:
        raise RequestValidationError(
            [{"type": "extra_forbidden", "loc": ("query", name), "msg": "No such parameter"} for name in unknown]
        )


def _names(needs: Dependant) -> Iterator[str]:
    yield from (field.alias for field in needs.query_params)
    for further in needs.dependencies:
        yield from _names(further)
