"""Bodies of requests, derived from the commands themselves, so that a list of fields exists once.

In: bytes. Out: a command, or one refusal that names every faulty field. JSON types are taken as they are: a number is
no date and "5" is no number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError, create_model
from pydantic.json_schema import models_json_schema

from infra.http.problems import Refused

M_co = TypeVar("M_co", bound=BaseModel, covariant=True)

REF = "#/components/schemas/{model}"
_PLACE = re.compile(r" at line (\d+) column (\d+)$")


class MalformedJson(Refused):
    code = "malformed_json"


class Body(Generic[M_co]):
    """The body that becomes a `kind`: all its fields but those that stand in the address, `in_path`."""

    def __init__(self, kind: type[M_co], *in_path: str) -> None:
        self.kind = kind
        self.model: type[BaseModel] = _without(kind, in_path) if in_path else kind
        self.optional = not any(field.is_required() for field in self.model.model_fields.values())
        self.empty = not self.model.model_fields
        self._validate = self.model.__pydantic_validator__.validate_json

    def read(self, data: bytes, in_path: dict[str, Any]) -> M_co:
        """Raises `MalformedJson` and `RequestValidationError`. No body is an empty object."""
        try:
            body = self._validate(data or b"{}", strict=True)
            if self.model is self.kind:
                return body  # type: ignore[no-any-return]
            return self.kind.model_validate({**in_path, **body.__dict__})
        except ValidationError as error:
            raise _told(error) from None


def _without(kind: type[BaseModel], in_path: Iterable[str]) -> type[BaseModel]:
    kept: dict[str, Any] = {
        name: (field.annotation, field) for name, field in kind.model_fields.items() if name not in in_path
    }
    return create_model(
        f"{kind.__name__}Body", __config__=kind.model_config, __doc__=kind.__doc__, __module__=__name__, **kept
    )


def _told(error: ValidationError) -> Exception:
    faults = error.errors(include_url=False)
    if faults[0]["type"] == "json_invalid":
        place = _PLACE.search(str(faults[0]["msg"]))
        where: dict[str, Any] = {"line": int(place[1]), "column": int(place[2])} if place else {}
        return MalformedJson("The body is not JSON.", None, **where)
    return RequestValidationError([{**fault, "loc": ("body", *fault["loc"])} for fault in faults])


def schemas(bodies: Iterable[Body[Any]]) -> dict[str, Any]:
    """JSON schemas of bodies and of all that they are made of, by name, for OpenAPI's components."""
    models = list(dict.fromkeys(body.model for body in bodies))
    _, document = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    found: dict[str, Any] = document.get("$defs", {})
    return found
