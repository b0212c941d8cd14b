"""Events to bytes and back.

In: an event and its person's data key. Out: canonical JSON (RFC 8785), personal fields sealed, and the same way back
through the upcasters. Money and decimals are strings; a float has no place in an event.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

import domain
from domain.events import ERASED, EVENTS, Erased, Event
from domain.ports import UnreadableEvent
from domain.refusals import Invalid
from domain.upcasters import UPCASTERS, upcast

# An event is read by its name, so every module that names one is loaded, whatever else this process is there for.
for _module in pkgutil.iter_modules(domain.__path__):
    importlib.import_module(f"domain.{_module.name}")

_SEALED: Final = "sealed"
_MARK: Final = b'"sealed":"v1"'
_BOX_KEYS: Final = frozenset({"box", "key", "person", _SEALED})
_NONCE: Final = 12
# RFC 8785 writes numbers as IEEE 754 doubles, which hold whole numbers exactly up to here (RFC 7493 §2.2).
_LARGEST: Final = 2**53 - 1
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False)
_UNSORTED: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False)


@dataclass(frozen=True, slots=True)
class Stored:
    """What the log keeps of an event: enough to read it back."""

    position: int
    organization: str
    event_id: UUID
    name: str
    payload: bytes


def canonical(value: Any) -> bytes:
    """JSON after RFC 8785. Raises `Invalid` for NUL, a lone surrogate or a whole number that a double can't hold, and
    `TypeError` for a float and for what is not JSON."""
    _check((value,))
    words = _ENCODER.encode(value)
    # A backslash before it makes it six plain characters, so what looks like a NUL is looked at again.
    if "\\u0000" in words and _has_nul(value):
        raise Invalid("text holds a NUL character")
    try:
        data = words.encode()
    except UnicodeEncodeError:
        # Its words quote the text, which may be personal.
        raise Invalid("text holds a lone surrogate") from None
    # RFC 8785 §3.2.3 sorts keys by UTF-16 units, Python by code points; they differ beyond U+D7FF alone.
    if len(data) != len(words) and _has_high_key(value):
        data = _UNSORTED.encode(_sorted(value)).encode()
    return data


def _check(values: Iterable[Any]) -> None:
    for value in values:
        kind = type(value)
        if kind is str or value is None or kind is bool:
            continue
        if kind is int:
            if not -_LARGEST <= value <= _LARGEST:
                raise Invalid("a whole number is beyond 2^53")
        elif kind is dict:
            _check(value.values())
        elif kind is list or kind is tuple:
            _check(value)
        else:
            raise TypeError(f"an event holds no {kind.__name__}; decimals are strings")


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(map(_has_nul, value))


def _has_high_key(value: Any) -> bool:
    if isinstance(value, dict):
        return any(max(key, default="") > "\ud7ff" or _has_high_key(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(map(_has_high_key, value))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value, key=lambda key: key.encode("utf-16-be"))}
    return [_sorted(item) for item in value] if isinstance(value, list | tuple) else value


def person_of(event: Event) -> str | None:
    """The person whose key the event needs, or None where nothing in it is to be sealed."""
    for name in event.SEALED_FIELDS:
        value = getattr(event, name)
        if value is not None and value is not ERASED:
            person = getattr(event, event.PERSON or "")
            if person is None:
                raise TypeError(f"{event.NAME} has personal words but its {event.PERSON} names nobody")
            return str(person)
    return None


def without_words(event: Event) -> Event:
    """The event as it reads when its person is forgotten."""
    told = {name: ERASED for name in event.SEALED_FIELDS if getattr(event, name) is not None}
    return event.model_copy(update=told)


def encode(event: Event, organization: str, event_id: UUID, key: bytes | None = None) -> bytes:
    """The payload of an event. `key` is the data key of `person_of(event)`; without one nothing may need sealing.

    Raises `Invalid` for text that the log can't hold."""
    sealed = event.SEALED_FIELDS
    try:
        payload = event.model_dump(mode="json", exclude=set(sealed) if sealed else None)
    except PydanticSerializationError:
        raise Invalid("the event holds text that is not Unicode") from None
    for value in payload.values():
        if type(value) is dict and _SEALED in value:
            raise TypeError(f"{event.NAME} has a field that looks sealed")
    for name in sealed:
        payload[name] = _sealed_field(event, name, organization, event_id, key)
    return canonical(payload)


def _sealed_field(event: Event, name: str, organization: str, event_id: UUID, key: bytes | None) -> Any:
    value = getattr(event, name)
    if value is None:
        return None
    if value is ERASED:
        return {_SEALED: "v1", "person": "", "key": "", "box": ""}
    if key is None:
        raise TypeError(f"{event.NAME} can't be sealed without a key")
    try:
        words = canonical(event.model_dump(mode="json", include={name})[name])
    except PydanticSerializationError:
        raise Invalid("the event holds text that is not Unicode") from None
    nonce = os.urandom(_NONCE)
    box = nonce + AESGCM(key).encrypt(nonce, words, _bound_to(organization, event_id, name))
    return {
        _SEALED: "v1",
        "person": str(getattr(event, event.PERSON or "")),
        "key": _fingerprint(key),
        "box": b64encode(box).decode(),
    }


def _bound_to(organization: str, event_id: UUID, field: str) -> bytes:
    return canonical([organization, str(event_id), field])


def _fingerprint(key: bytes) -> str:
    # Tells a box of a destroyed key from a forged one when the person has a new key.
    return sha256(b"daybook data key" + key).hexdigest()[:16]


def persons_in(stored: Stored) -> Collection[str]:
    """The persons whose keys are needed to read the event."""
    if _MARK not in stored.payload:
        return ()
    return {value["person"] for value in _parse(stored).values() if _is_box(value) and value["person"]}


def decode(stored: Stored, keys: Mapping[str, bytes | None]) -> Event:
    """The event, opened with the keys of `persons_in(stored)`, in its newest shape.

    Raises `UnreadableEvent` for an unknown name, a payload that its event does not fit, or a box that was altered."""
    if _MARK in stored.payload or stored.name in UPCASTERS:
        payload = _parse(stored)
        for field, value in payload.items():
            if _is_box(value):
                payload[field] = _opened(stored, field, value, keys)
        name, payload = upcast(stored.name, payload)
        kind = _kind(stored, name)
        try:
            return kind.model_validate(payload)
        except ValidationError as error:
            raise UnreadableEvent(stored.position, name, _outline(error)) from None
    kind = _kind(stored, stored.name)
    try:
        return kind.model_validate_json(stored.payload)
    except ValidationError as error:
        raise UnreadableEvent(stored.position, stored.name, _outline(error)) from None


def _kind(stored: Stored, name: str) -> type[Event]:
    kind = EVENTS.get(name)
    if kind is None:
        raise UnreadableEvent(stored.position, name, "no event has this name")
    return kind


def _parse(stored: Stored) -> dict[str, Any]:
    try:
        payload = json.loads(stored.payload)
    except ValueError:
        payload = None
    if not isinstance(payload, dict):
        raise UnreadableEvent(stored.position, stored.name, "the payload is not a JSON object")
    return payload


def _is_box(value: Any) -> bool:
    return type(value) is dict and value.keys() == _BOX_KEYS and value[_SEALED] == "v1"


def _opened(stored: Stored, field: str, sealed: Mapping[str, str], keys: Mapping[str, bytes | None]) -> Any | Erased:
    key = keys.get(sealed["person"])
    if key is None or _fingerprint(key) != sealed["key"]:
        return ERASED
    box = b64decode(sealed["box"])
    try:
        words = AESGCM(key).decrypt(box[:_NONCE], box[_NONCE:], _bound_to(stored.organization, stored.event_id, field))
    except InvalidTag:
        raise UnreadableEvent(stored.position, stored.name, f"the seal of {field} is broken") from None
    return json.loads(words)


def _outline(error: ValidationError) -> str:
    """What does not fit, without the values, which may be personal."""
    return "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {fault['type']}"
        for fault in error.errors(include_url=False, include_context=False, include_input=False)[:5]
    )
