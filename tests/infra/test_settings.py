"""Settings are checked before anything starts, and what is wrong is said in words that name no secret."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from infra import settings
from infra.settings import Settings
from infra.troubles import WrongSettings

SECRET = "postgresql://app:s3cr3t@db/daybook"


def test_defaults_then_the_environment_then_arguments(tmp_path: Path) -> None:
    assert Settings.load({}) == Settings()
    environ = {"DATA": str(tmp_path), "PORT": "9000", "DAYBOOK_RATE_LIMIT": "5", "DAYBOOK_HOST": ""}
    loaded = Settings.load(environ, port=9001, host=None)
    assert (loaded.data, loaded.port, loaded.rate_limit, loaded.host) == (tmp_path, 9001, 5, "127.0.0.1")


def test_every_setting_can_be_given_by_the_environment() -> None:
    assert set(settings._KINDS) == {field.name for field in dataclasses.fields(Settings)}


def test_what_a_service_needs_is_named_all_at_once() -> None:
    with pytest.raises(WrongSettings) as refused:
        Settings.load({"DAYBOOK_REDIS_URL": "redis://x"}).need("postgres_dsn", "redis_url", "clickhouse_url")
    assert "DAYBOOK_POSTGRES_DSN, DAYBOOK_CLICKHOUSE_URL," in str(refused.value)
    assert "_FILE" in str(refused.value)
    assert "REDIS" not in str(refused.value)


@pytest.mark.parametrize("name", settings._SECRETS)
def test_a_secret_comes_from_a_file_and_is_never_shown(tmp_path: Path, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    variable = f"DAYBOOK_{name.upper()}"
    loaded = Settings.load({variable: "of the environment", f"{variable}_FILE": str(file)})
    assert getattr(loaded, name) == SECRET
    loaded.need(name)
    assert "s3cr3t" not in repr(loaded)
    assert getattr(Settings.load({variable: SECRET}), name) == SECRET
    for unreadable in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(WrongSettings, match=f"{variable}_FILE names a file that can't be read"):
            Settings.load({variable: SECRET, f"{variable}_FILE": str(unreadable)})
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(WrongSettings, match="UnicodeDecodeError"):
        Settings.load({f"{variable}_FILE": str(file)})
    file.write_text("\n")
    with pytest.raises(WrongSettings, match=variable):
        Settings.load({f"{variable}_FILE": str(file)}).need(name)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PORT", "65536", "between 0 and 65535"),
        ("PORT", "-1", "between 0 and 65535"),
        ("PORT", "http", "whole number"),
        ("DAYBOOK_STACK", "half", "'embedded' or 'full'"),
        ("DAYBOOK_LOG_FORMAT", "xml", "'json' or 'console'"),
        ("DAYBOOK_LOG_LEVEL", "loud", "debug, info"),
        ("DAYBOOK_TRACE_RATIO", "1.5", "between 0 and 1"),
        ("DAYBOOK_TRACE_RATIO", "nan", "between 0 and 1"),
        ("DAYBOOK_TRACE_RATIO", "half", "a number"),
        ("DAYBOOK_BODY_LIMIT", "0", "at least 1"),
        ("DAYBOOK_NESTING_LIMIT", "0", "at least 1"),
        ("DAYBOOK_RATE_WINDOW", "0", "at least 1"),
        ("DAYBOOK_ADDRESS_FACTOR", "-1", "0 or more"),
        ("DAYBOOK_ADDRESS_FACTOR", "inf", "0 or more"),
        ("DAYBOOK_TRUSTED_PROXIES", "10.0.0.0/8, everyone", "everyone"),
        ("DAYBOOK_FORWARDED_HEADER", "X-Real-IP", "neither"),
        ("DAYBOOK_PAGE_ORIGINS", "https://app.example.org/", "without a path"),
        ("DAYBOOK_PAGE_ORIGINS", "https://app.example.org, *", "an origin"),
        ("DAYBOOK_TLS_CERT", "cert.pem", "go together"),
        ("DAYBOOK_TLS_KEY", "key.pem", "go together"),
    ],
)
def test_what_makes_no_sense_is_refused(variable: str, value: str, words: str) -> None:
    with pytest.raises(WrongSettings, match=words) as refused:
        Settings.load({variable: value})
    assert variable in str(refused.value)


@pytest.mark.parametrize(
    ("environ", "https"),
    [
        ({}, False),
        ({"DAYBOOK_SITE": "http://book.example.org"}, False),
        ({"DAYBOOK_SITE": "https://book.example.org"}, True),
        ({"DAYBOOK_TLS_CERT": "cert.pem", "DAYBOOK_TLS_KEY": "key.pem"}, True),
    ],
)
def test_callers_speak_tls_where_we_do_or_the_site_says_so(environ: dict[str, str], https: bool) -> None:
    assert Settings.load(environ).outside.https is https
    assert Settings.load(environ).origin.startswith("https:") is https
