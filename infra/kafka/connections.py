"""How the brokers are reached. In: addresses and secrets. Out: arguments that every client of `aiokafka` takes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from infra.settings import Settings
from infra.troubles import WrongSettings

SECURITIES: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


@dataclass(frozen=True, slots=True)
class Brokers:
    """`servers` are `host:port`, separated by commas. Without `ca_file` the system's authorities are trusted."""

    servers: str
    security: str = "PLAINTEXT"
    ca_file: Path | None = None
    mechanism: str = "SCRAM-SHA-512"
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not all(_is_address(one) for one in self.addresses):
            raise WrongSettings("DAYBOOK_KAFKA is a list of host:port, separated by commas.")
        if self.security not in SECURITIES:
            raise WrongSettings(f"DAYBOOK_KAFKA_SECURITY is {self.security!r}; it is one of {', '.join(SECURITIES)}.")
        if self.security.startswith("SASL") and not (self.username and self.password):
            raise WrongSettings(
                f"DAYBOOK_KAFKA_SECURITY={self.security} needs DAYBOOK_KAFKA_USER and DAYBOOK_KAFKA_PASSWORD."
            )
        if self.mechanism not in MECHANISMS:
            raise WrongSettings(f"DAYBOOK_KAFKA_MECHANISM is {self.mechanism!r}; it is one of {', '.join(MECHANISMS)}.")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those that the settings name. Raises `WrongSettings`."""
        settings.need("kafka")
        return cls(
            settings.kafka or "",
            settings.kafka_security,
            settings.kafka_ca,
            settings.kafka_mechanism,
            settings.kafka_user,
            settings.kafka_password,
        )

    @property
    def addresses(self) -> list[str]:
        return [one.strip() for one in self.servers.split(",")]

    def tls(self) -> ssl.SSLContext | None:
        """Raises `WrongSettings` when the file of authorities can't be read."""
        if not self.security.endswith("SSL"):
            return None
        try:
            return ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        except (OSError, ssl.SSLError) as error:
            raise WrongSettings(f"DAYBOOK_KAFKA_CA can't be read ({type(error).__name__}).") from error

    def arguments(self) -> dict[str, Any]:
        given: dict[str, Any] = {
            "bootstrap_servers": self.addresses,
            "security_protocol": self.security,
            "ssl_context": self.tls(),
        }
        if self.security.startswith("SASL"):
            given |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return given


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isdigit() and 0 < int(port) < 65536
