"""What processes say about themselves: structured, one line each, on stderr, and never a word about a person.

In: records of the standard `logging`, ours and those of libraries. Out: JSON lines or readable ones. Our own words are
written with care; a library's are not known, so of those only what stands literally in its code is passed on, with
numbers filled in. Of an error its class, its code and its places are told, never its message, which may quote what
somebody sent. docs/operations/observability.md lists the fields.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from opentelemetry import trace
from structlog.stdlib import ProcessorFormatter

from infra.http.correlation import ASKED, correlated

Form = Literal["json", "console"]
FORMS: Final = ("json", "console")

# What may stand in a line besides what every line has. Anything else is dropped, and its name told.
FIELDS: Final = frozenset(
    {
        *("time", "level", "service", "logger", "event"),
        *("trace_id", "span_id", "correlation_id", "method", "operation"),
        *("error", "caused_by", "at", "dropped"),
        *("model", "part", "position", "events", "seconds", "count", "code", "status"),
    }
)

_OURS: Final = frozenset(
    {"daybook", "domain", "commands", "infra", "projections", "read_api", "streams", "write_api", "__main__"}
)
_ROOT: Final = str(Path(__file__).parents[1]) + "/"
_LIBRARIES: Final = re.compile(r".*/(?:site-packages|lib/python[0-9.]+)/")
_LONGEST: Final = 2_000
_FRAMES: Final = 30
_CALLERS: Final = 24
_CAUSES: Final = 5
_HIDDEN: Final = "…"
_SECRETS: Final = re.compile(
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"  # an e-mail address
    r"|(?<=://)[^/@\s]+@"  # who enters, in a URL
    r"|\beyJ[\w-]+\.[\w.-]+"  # a signed token
    r"|\+[0-9][0-9 ().\-/]{6,}[0-9]"  # a telephone number
    r"|(?i:(?:bearer|basic|password[=:]) *\S+)"
)

_log = logging.getLogger("daybook.logs")

Line = MutableMapping[str, Any]


def form_of_service(said: Form | None) -> Form:
    """What was said; otherwise readable at a terminal, and JSON for machines."""
    return said or ("console" if sys.stderr.isatty() else "json")


def set_up(service: str, *, level: str, form: Form, stream: TextIO | None = None) -> None:
    """Send everything that this process logs to `stream` (stderr) in one form. `level` is for our own loggers; others
    are heard from `warning` on. Errors that nobody caught are told the same way."""
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(formatter(service, form, colours=handler.stream.isatty()))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
    warnings.simplefilter("ignore", DeprecationWarning)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda told: _uncaught(told.exc_type, told.exc_value, told.exc_traceback)
    sys.unraisablehook = lambda told: _uncaught(told.exc_type, told.exc_value, told.exc_traceback)


def on_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Have the event loop tell of errors that nobody caught without their words."""
    loop.set_exception_handler(_uncaught_in_loop)


def formatter(service: str, form: Form, *, colours: bool = False) -> logging.Formatter:
    renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False)
    if form == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=colours, timestamp_key="time", pad_event_to=0, sort_keys=False)

    def told(logger: Any, method: str, line: Line) -> Line:
        return _line(service, line)

    return ProcessorFormatter(
        foreign_pre_chain=[structlog.contextvars.merge_contextvars, structlog.stdlib.ExtraAdder(FIELDS)],
        processors=[told, redact, _in_order, renderer],
        pass_foreign_args=True,
    )


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, record: logging.LogRecord) -> None:
        """A record that can't be formatted is told by its place; the usual way would print its arguments."""
        kind = sys.exc_info()[0]
        self.stream.write(f"a line at {record.module}:{record.lineno} can't be logged ({kind and kind.__name__})\n")


def _line(service: str, line: Line) -> Line:
    record: logging.LogRecord = line.pop("_record")
    line.pop("_from_structlog", None)
    arguments = line.pop("positional_args", record.args)
    line["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:-6] + "Z"
    line["level"] = record.levelname.lower()
    line["service"] = service
    line["logger"] = record.name
    if record.name.partition(".")[0] in _OURS:
        line["event"] = _filled(record.msg, arguments, _own)
    else:
        line["event"] = _words_of_others(record, arguments)
        line["at"] = f"{record.module}:{record.lineno}"
    raised = line.pop("exc_info", None) or record.exc_info
    if isinstance(raised, tuple) and raised[1] is not None:
        line.update(told_of(raised[1]))
    _context(line)
    return line


def _context(line: Line) -> None:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        line["trace_id"], line["span_id"] = f"{span.trace_id:032x}", f"{span.span_id:016x}"
    scope = ASKED.get()
    if scope is not None:
        if (correlation := correlated(scope)) is not None:
            line["correlation_id"] = str(correlation)
        line["method"] = scope["method"] if scope["method"].isascii() and len(scope["method"]) < 10 else _HIDDEN
        # The route's name, never the path, which may name a person.
        if (route := scope.get("route")) is not None:
            line["operation"] = getattr(route, "name", "")


def told_of(error: BaseException) -> dict[str, Any]:
    """An error by its class, its code and its places: `error`, `caused_by`, `at`."""
    causes: list[str] = []
    cause, seen = error.__cause__ or (None if error.__suppress_context__ else error.__context__), {id(error)}
    while cause is not None and id(cause) not in seen and len(causes) < _CAUSES:
        causes.append(name_of(cause))
        seen.add(id(cause))
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    told: dict[str, Any] = {"error": name_of(error), "at": places(error.__traceback__)}
    if isinstance(error, BaseExceptionGroup):
        causes += [name_of(one) for one in error.exceptions[:_CAUSES]]
    return told | ({"caused_by": ", ".join(causes)} if causes else {})


def name_of(error: BaseException) -> str:
    """Its class, and the number by which a store or the system knows it."""
    for attribute in ("sqlstate", "code", "errno", "status_code"):
        code = getattr(error, attribute, None)
        if (isinstance(code, int) and not isinstance(code, bool)) or (
            attribute == "sqlstate" and isinstance(code, str) and re.fullmatch(r"[0-9A-Z]{5}", code)
        ):
            return f"{type(error).__qualname__} {code}"
    return type(error).__qualname__


def places(trail: TracebackType | None) -> str:
    frames = [f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trail)]
    return " < ".join(reversed(frames[-_FRAMES:]))


def _short(path: str) -> str:
    return _LIBRARIES.sub("", path) if _LIBRARIES.match(path) else path.removeprefix(_ROOT)


def _own(value: Any) -> Any:
    return name_of(value) if isinstance(value, BaseException) else value


def _hidden(value: Any) -> Any:
    """What of a library's value may be told: numbers, and what kind of thing it is."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, BaseException):
        return name_of(value)
    return _HIDDEN if isinstance(value, str | bytes) else f"<{type(value).__name__}>"


def _filled(template: Any, arguments: Any, shown: Any) -> str:
    text = name_of(template) if isinstance(template, BaseException) else str(template)
    if not arguments:
        return text
    if isinstance(arguments, Mapping):
        return text % {name: shown(value) for name, value in arguments.items()}
    return text % tuple(shown(value) for value in arguments)


def _words_of_others(record: logging.LogRecord, arguments: Any) -> str:
    """A library's template, when it stands in its code as a literal; its arguments when they are numbers."""
    if isinstance(record.msg, str) and not _is_literal(record.msg):
        # asyncio puts the error's own words behind the first line.
        first = record.msg.partition("\n")[0]
        return first if record.name == "asyncio" and _is_literal(first) else f"{_HIDDEN} ({record.name})"
    try:
        return _filled(record.msg, arguments, _hidden)
    except (TypeError, ValueError, KeyError):
        return str(record.msg)


def _is_literal(text: str) -> bool:
    """Whether the text stands literally in one of the functions that are being called."""
    frame: Any = sys._getframe(1)
    for _ in range(_CALLERS):
        if frame is None:
            return False
        if any(isinstance(constant, str) and constant == text for constant in frame.f_code.co_consts):
            return True
        frame = frame.f_back
    return False


def redact(logger: Any, method: str, line: Line) -> Line:
    """The last line of defence: fields that nobody has thought of are dropped, what looks personal or secret is cut
    out, and nothing is long."""
    unknown = sorted(name for name in line if name not in FIELDS)
    for name in unknown:
        del line[name]
    if unknown:
        line["dropped"] = ", ".join(name for name in unknown if name.isidentifier())
    for name, value in line.items():
        if value is None or isinstance(value, bool | int | float):
            continue
        line[name] = _SECRETS.sub(_HIDDEN, " ".join(str(value).split()))[:_LONGEST]
    return line


_FIRST: Final = ("time", "level", "service", "logger", "event")


def _in_order(logger: Any, method: str, line: Line) -> Line:
    return {name: line[name] for name in (*_FIRST, *(name for name in line if name not in _FIRST))}


def _uncaught(kind: type[BaseException], error: BaseException | None, trail: TracebackType | None) -> None:
    if error is None or isinstance(error, KeyboardInterrupt):
        return
    _log.critical("nobody caught %s", kind.__qualname__, exc_info=(kind, error, trail))


def _uncaught_in_loop(loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    error = context.get("exception")
    task = context.get("task") or context.get("future")
    name = task.get_name() if isinstance(task, asyncio.Task) else type(task).__name__ if task else "the event loop"
    if isinstance(error, BaseException):
        _log.error("nobody caught an error of %s", name, exc_info=(type(error), error, error.__traceback__))
    else:
        _log.error("the event loop tells of %s", name)
