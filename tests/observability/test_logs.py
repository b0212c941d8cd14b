"""What a line of the log may hold: our own words, a library's only where they are its code's, an error's class and
places, and of what else is given the fields that are allowed."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from fastapi import APIRouter

from infra import logs
from infra.http.correlation import ASKED, correlation_of, traced_by
from infra.http.service import service
from infra.settings import Settings
from infra.troubles import WrongSettings

SOMEBODY = "Zwetschgenmus"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What this process logs, as JSON."""
    stream = io.StringIO()
    handler = logs._Handler(stream)
    handler.setFormatter(logs.formatter("tests", "json"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.removeHandler(handler)
    root.setLevel(level)


def test_a_line_of_ours(lines: Any) -> None:
    logging.getLogger("daybook.here").warning("%s waits at position %d (%s)", "diary", 7, OSError(5, SOMEBODY))
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "service": "tests",
        "logger": "daybook.here",
        "event": "diary waits at position 7 (OSError 5)",
    }


def test_an_error_is_told_by_class_cause_and_place(lines: Any) -> None:
    def fails() -> None:
        try:
            raise psycopg.errors.UniqueViolation(SOMEBODY)
        except psycopg.Error as error:
            raise ValueError(SOMEBODY) from error

    for name in ("daybook.here", "library.there"):
        try:
            fails()
        except ValueError:
            logging.getLogger(name).exception("it broke")
    for line in lines():
        assert (line["event"], line["error"], line["caused_by"]) == ("it broke", "ValueError", "UniqueViolation 23505")
        assert line["at"].startswith("tests/observability/test_logs.py:")
        assert " fails < " in line["at"]
        assert SOMEBODY not in json.dumps(line)


def test_of_a_library_only_what_stands_in_its_code(lines: Any) -> None:
    library = logging.getLogger("library.there")
    library.warning('node "%s:%s" is gone after %.1f s: %s (%s)', SOMEBODY, 9092, 1.5, OSError(SOMEBODY), [SOMEBODY])
    library.warning(f"somebody is {SOMEBODY}")
    library.warning("%(who)s has %(count)d", {"who": SOMEBODY, "count": 3})
    assert [line["event"] for line in lines()] == [
        'node "…:9092" is gone after 1.5 s: OSError (<list>)',
        "… (library.there)",
        "… has 3",
    ]
    assert SOMEBODY not in json.dumps(lines())


def test_fields_that_nobody_allowed_are_dropped_and_what_looks_personal_is_cut_out(lines: Any) -> None:
    words = "mail ada@example.org, call +49 170 1234567, redis://me:secret@host/0, eyJhbGci.eyJzdWIi.x, Bearer abc"
    logging.getLogger("daybook.here").warning(words, extra={"model": "diary", "patient": SOMEBODY})
    (line,) = lines()
    assert line["model"] == "diary"
    assert "patient" not in line
    assert line["event"] == "mail …, call …, redis://…host/0, …, …"
    bound = logs.redact(None, "", {"event": "x", "patient": SOMEBODY})
    assert bound == {"event": "x", "dropped": "patient"}


def test_a_line_that_can_t_be_made_says_where_and_no_more(lines: Any) -> None:
    stream = io.StringIO()
    handler = logs._Handler(stream)
    handler.setFormatter(logs.formatter("tests", "json"))
    record = logging.LogRecord("daybook.here", logging.ERROR, "there.py", 7, "%d of %d", (SOMEBODY,), None)
    handler.handle(record)
    assert stream.getvalue() == "a line at there:7 can't be logged (TypeError)\n"


async def test_an_error_that_nobody_caught_in_the_event_loop(lines: Any) -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    logs.on_loop(loop)

    async def fails() -> None:
        raise KeyError(SOMEBODY)

    task = asyncio.create_task(fails(), name="sweeper")
    await asyncio.wait([task])
    del task
    loop.set_exception_handler(before)
    (line,) = [one for one in lines() if one["logger"] == "daybook.logs"]
    assert (line["event"], line["error"]) == ("nobody caught an error of sweeper", "KeyError")
    assert SOMEBODY not in json.dumps(lines())


@contextmanager
def _asked(**headers: str) -> Iterator[None]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    token = ASKED.set({"type": "http", "method": "POST", "path": f"/{SOMEBODY}", "headers": pairs})
    try:
        yield
    finally:
        ASKED.reset(token)


def test_a_line_says_which_request_it_belongs_to(lines: Any) -> None:
    given = uuid4()
    with _asked(x_request_id=str(given)):
        logging.getLogger("daybook.here").warning("hm")
    (line,) = lines()
    assert (line["correlation_id"], line["method"]) == (str(given), "POST")
    assert SOMEBODY not in json.dumps(line)


async def test_a_request_that_breaks_is_told_by_its_operation(lines: Any) -> None:
    routes = APIRouter()

    @routes.get("/people/{who}")
    async def somebody(who: str) -> None:
        raise RuntimeError(f"no {who}")

    app = service("", title="", description="", routers=[routes])
    import httpx  # noqa: PLC0415

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as http:
        assert (await http.get(f"/people/{SOMEBODY}?q={SOMEBODY}")).status_code == 500
    (line,) = [one for one in lines() if one["logger"] == "daybook.http"]
    assert (line["operation"], line["method"]) == ("somebody", "GET")
    assert line["event"].startswith("unexpected RuntimeError at ")
    assert SOMEBODY not in json.dumps([one for one in lines() if one["logger"] != "httpx"])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", (int(TRACE, 16), 0xB7AD6B7169203331)),
        (f"cc-{TRACE}-b7ad6b7169203331-01-more", (int(TRACE, 16), 0xB7AD6B7169203331)),
        (f"00-{TRACE}-b7ad6b7169203331-01-more", None),
        (f"ff-{TRACE}-b7ad6b7169203331-01", None),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", None),
    ],
)
def test_a_traceparent_is_read_as_trace_context_says(said: str, expected: tuple[int, int] | None) -> None:
    headers = [(b"traceparent", said.encode())]
    assert traced_by(headers) == expected
    assert (correlation_of(headers) is None) == (expected is None)


@pytest.mark.parametrize(
    "wrong", [{"DAYBOOK_LOG_FORMAT": "xml"}, {"DAYBOOK_LOG_LEVEL": "loud"}, {"DAYBOOK_TRACE_RATIO": "2"}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(WrongSettings):
        Settings.load(wrong)


def test_a_process_that_breaks_says_so_without_the_words() -> None:
    program = (
        "import logging, sys; from infra import logs; logs.set_up('here', level='info', form=sys.argv[1])\n"
        f"raise RuntimeError('{SOMEBODY}')"
    )
    for form in ("json", "console"):
        done = subprocess.run([sys.executable, "-c", program, form], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "nobody caught RuntimeError" in done.stderr
        assert SOMEBODY not in done.stderr
        assert (json.loads(done.stderr)["service"] == "here") if form == "json" else "RuntimeError" in done.stderr
