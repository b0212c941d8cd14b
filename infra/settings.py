"""Every setting in one frozen object. In: the environment and arguments. Out: `Settings`, checked.

Secrets come by the environment or, with `_FILE` behind the name, from a file; never by an argument, which every user
of the machine can read.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infra.http.address import Outside, Proxies
from infra.troubles import WrongSettings

Stack = Literal["embedded", "full"]
LogFormat = Literal["json", "console"]

# The read models by name.
MODELS = ("diary", "free_time", "people", "facts", "directory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes in bytes, durations in seconds.

    `rate_limit` requests are allowed to each caller in `rate_window` seconds; 0 switches the limit off. At doors that
    open without a token one address may try `address_factor` times as often as usual: more where many people of a
    clinic share one; 0 leaves the limit by account alone.

    `log_format` is `json` or `console`; unsaid, services log JSON except at a terminal, and the embedded Daybook
    readable lines. Traces go to `otlp_endpoint`, where an OpenTelemetry collector takes OTLP over HTTP (`http://host:4318`);
    unsaid, there are none. `trace_ratio` is the share of requests that are traced, 0 to 1.

    `trusted_proxies` are networks (`10.0.0.0/8,fd00::/8`) whose word about a caller's address is believed, given in the
    `forwarded_header`. `tls_cert` and `tls_key` are PEM files (the certificate with its chain): with them the APIs
    speak TLS alone. Where a proxy ends it instead, `site` says so by its scheme.

    `oidc_providers` is a JSON file of the outside OpenID Connect providers by which people may sign in too
    (`docs/signing-in.md`).

    `site` is the origin under which people's browsers reach the APIs (`https://book.example.org`): links in letters
    lead there, passkeys are bound to it, and it is the issuer of tokens (OpenID Connect Discovery 1.0). Letters go out
    by `smtp_url`, from `mail_from`; unsaid, they are files in the data folder. `privacy_officer` is the address that
    hears of every broken glass. `page_origins` are those of apps that run in browsers (`https://app.example.org,…`):
    their pages may read what the APIs answer.

    The rest is the full stack's: `kafka` are bootstrap servers (`host:port,host:port`), `keys` and `checkpoints`
    folders (in `data` where they are not said), `backups` the folder of a backup whose age is to be told, `kafka_ca`
    the file of who signed the brokers' keys. `kafka_prefix` begins the names of all topics and consumer groups, and is
    the same for every service. The `_dsn` and `_url` fields hold secrets, so they stay out of `repr`;
    `postgres_owner_dsn` is for `daybook migrate` alone.
    """

    data: Path = Path("data")
    host: str = "127.0.0.1"
    port: int = 8000
    stack: Stack = "embedded"
    organization: str = "main"
    site: str | None = None
    mail_from: str = "Daybook <daybook@localhost>"
    smtp_url: str | None = field(default=None, repr=False)
    oidc_providers: Path | None = None
    privacy_officer: str | None = None
    page_origins: str = ""
    video_url_template: str = "https://video.example.org/{organization}/{room}"

    token_issuer: str = "daybook"  # noqa: S105 - a name
    write_audience: str = "daybook-write"
    read_audience: str = "daybook-read"
    token_leeway: int = 30

    body_limit: int = 1024 * 1024
    nesting_limit: int = 64
    rate_limit: int = 6000
    rate_window: int = 60
    address_factor: float = 1.0
    trusted_proxies: str = ""
    forwarded_header: str = "X-Forwarded-For"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_level: str = "info"
    log_format: LogFormat | None = None
    otlp_endpoint: str | None = None
    trace_ratio: float = 1.0

    keys: Path | None = None
    checkpoints: Path | None = None
    backups: Path | None = None
    kafka: str | None = None
    kafka_prefix: str = "daybook"
    kafka_security: str = "PLAINTEXT"
    kafka_ca: Path | None = None
    kafka_mechanism: str = "SCRAM-SHA-512"
    kafka_user: str | None = None
    kafka_password: str | None = field(default=None, repr=False)
    postgres_dsn: str | None = field(default=None, repr=False)
    postgres_owner_dsn: str | None = field(default=None, repr=False)
    redis_url: str | None = field(default=None, repr=False)
    clickhouse_url: str | None = field(default=None, repr=False)
    elasticsearch_url: str | None = field(default=None, repr=False)

    @property
    def origin(self) -> str:
        """What browsers show; a passkey is never bound to a bare address (WebAuthn Level 2 §5.1.2)."""
        if self.site is not None:
            return self.site.rstrip("/")
        return self.url.replace("//127.0.0.1:", "//localhost:")

    @property
    def token_issuers(self) -> tuple[str, ...]:
        """Who may have made a token that the APIs take: what those of apps say comes first, then what an operator's
        do. Without a `site` there is no address that every process knows, so both say the same."""
        return (self.origin, self.token_issuer) if self.site is not None else (self.token_issuer,)

    @property
    def keys_folder(self) -> Path:
        return self.keys or self.data / "keys"

    @property
    def checkpoints_folder(self) -> Path:
        return self.checkpoints or self.data / "checkpoints"

    @property
    def outside(self) -> Outside:
        """How callers reach the APIs. Raises `ValueError`, which `load` has ruled out."""
        networks = [one.strip() for one in self.trusted_proxies.split(",") if one.strip()]
        return Outside(Proxies.of(networks, self.forwarded_header), self.origin.startswith("https:"))

    @property
    def pages(self) -> tuple[str, ...]:
        """`page_origins` one by one, as browsers write them."""
        return tuple(one.strip().lower() for one in self.page_origins.split(",") if one.strip())

    def need(self, *names: str) -> None:
        """Raises `WrongSettings` naming those that are not set."""
        if missing := [f"DAYBOOK_{name.upper()}" for name in names if not getattr(self, name)]:
            raise WrongSettings(
                f"This needs {', '.join(missing)}, by the environment; or each with _FILE behind its name, naming a "
                "file that holds it."
            )

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'http' if self.tls_cert is None else 'https'}://{host}:{self.port}"

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, **arguments: Any) -> Settings:
        """Defaults, then the environment, then the arguments that are not None. Raises `WrongSettings`.

        `DATA` and `PORT` stand under their short names, everything else as `DAYBOOK_` and the field's name.
        """
        environ = os.environ if environ is None else environ
        given: dict[str, Any] = {}
        for name, kind in _KINDS.items():
            variable = _SHORT.get(name, f"DAYBOOK_{name.upper()}")
            text = _secret(environ, variable) if name in _SECRETS else environ.get(variable)
            if text is not None and text != "":
                given[name] = _converted(variable, text, kind)
        given |= {name: value for name, value in arguments.items() if value is not None}
        settings = cls(**given)
        settings._check()
        return settings

    def _check(self) -> None:
        if not 0 <= self.port <= 65535:
            raise WrongSettings(f"PORT is {self.port}; a port lies between 0 and 65535 (0 takes any free one).")
        if self.stack not in ("embedded", "full"):
            raise WrongSettings(f"DAYBOOK_STACK is {self.stack!r}; it is either 'embedded' or 'full'.")
        if self.log_format not in (None, "json", "console"):
            raise WrongSettings(f"DAYBOOK_LOG_FORMAT is {self.log_format!r}; it is either 'json' or 'console'.")
        if self.log_level.lower() not in _LEVELS:
            raise WrongSettings(f"DAYBOOK_LOG_LEVEL is {self.log_level!r}; it is one of {', '.join(_LEVELS)}.")
        if not 0 <= self.trace_ratio <= 1:
            raise WrongSettings(f"DAYBOOK_TRACE_RATIO is {self.trace_ratio}; a share lies between 0 and 1.")
        if not 0 <= self.address_factor < math.inf:
            raise WrongSettings(f"DAYBOOK_ADDRESS_FACTOR is {self.address_factor}; it is 0 or more.")
        if not _PREFIX.fullmatch(self.kafka_prefix):
            raise WrongSettings(
                f"DAYBOOK_KAFKA_PREFIX is {self.kafka_prefix!r}; it has 1 to 200 letters, digits, '.', '_' or '-'."
            )
        try:
            _ = self.outside
        except ValueError as error:
            raise WrongSettings(f"DAYBOOK_TRUSTED_PROXIES or DAYBOOK_FORWARDED_HEADER: {error}.") from None
        if (self.tls_cert is None) != (self.tls_key is None):
            raise WrongSettings("DAYBOOK_TLS_CERT and DAYBOOK_TLS_KEY go together: both, or neither.")
        if self.site is not None and not _ORIGIN.fullmatch(self.site):
            raise WrongSettings(f"DAYBOOK_SITE is {self.site!r}; it is an origin such as https://book.example.org.")
        for one in self.pages:
            if not _ORIGIN.fullmatch(one) or one.endswith("/"):
                raise WrongSettings(
                    f"DAYBOOK_PAGE_ORIGINS has {one!r}; each is an origin (https://app.example.org), without a path."
                )
        for name in ("body_limit", "nesting_limit", "rate_window"):
            if getattr(self, name) < 1:
                raise WrongSettings(f"DAYBOOK_{name.upper()} is {getattr(self, name)}; it is at least 1.")


# What Kafka takes in a topic's name, with room for what comes after it.
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,200}")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/?")
_SHORT = {"data": "DATA", "port": "PORT"}
_LEVELS = ("debug", "info", "warning", "error", "critical")
_SECRETS = (
    "smtp_url",
    "kafka_password",
    "postgres_dsn",
    "postgres_owner_dsn",
    "redis_url",
    "clickhouse_url",
    "elasticsearch_url",
)
_KINDS: Mapping[str, type] = {
    "data": Path,
    "host": str,
    "port": int,
    "stack": str,
    "organization": str,
    "site": str,
    "mail_from": str,
    "smtp_url": str,
    "oidc_providers": Path,
    "privacy_officer": str,
    "page_origins": str,
    "video_url_template": str,
    "token_issuer": str,
    "write_audience": str,
    "read_audience": str,
    "token_leeway": int,
    "body_limit": int,
    "nesting_limit": int,
    "rate_limit": int,
    "rate_window": int,
    "address_factor": float,
    "trusted_proxies": str,
    "forwarded_header": str,
    "tls_cert": Path,
    "tls_key": Path,
    "log_level": str,
    "log_format": str,
    "otlp_endpoint": str,
    "trace_ratio": float,
    "keys": Path,
    "checkpoints": Path,
    "backups": Path,
    "kafka": str,
    "kafka_prefix": str,
    "kafka_security": str,
    "kafka_ca": Path,
    "kafka_mechanism": str,
    "kafka_user": str,
    "kafka_password": str,
    "postgres_dsn": str,
    "postgres_owner_dsn": str,
    "redis_url": str,
    "clickhouse_url": str,
    "elasticsearch_url": str,
}


def _secret(environ: Mapping[str, str], variable: str) -> str | None:
    path = environ.get(f"{variable}_FILE")
    if not path:
        return environ.get(variable)
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WrongSettings(f"{variable}_FILE names a file that can't be read ({type(error).__name__}).") from error


def _converted(variable: str, text: str, kind: type) -> Any:
    if kind is Path:
        return Path(text).expanduser()
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            wanted = "a whole number" if kind is int else "a number"
            raise WrongSettings(f"{variable} is {text!r}, and should be {wanted}.") from None
    return text
