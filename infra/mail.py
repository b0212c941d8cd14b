"""Letters: to a mail server, or as files where there is none.

In: an address and plain words. Out: a message on its way. Implements `domain.ports.Mailer`. Neither address nor words
are ever logged.
"""

from __future__ import annotations

import asyncio
import os
import smtplib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime, make_msgid
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from domain.ports import Mailer, MailLost
from infra.settings import Settings
from infra.troubles import WrongSettings

_PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class SmtpMailer:
    """`smtps://` speaks TLS from the start (RFC 8314 §3.3), `smtp://` with STARTTLS, and refuses a server that has none
    unless `plain` allows that; `smtp://localhost` may be plain. User and password stand in the URL."""

    host: str
    port: int
    sender: str
    implicit_tls: bool
    plain: bool
    user: str | None = None
    password: str | None = None
    trust: ssl.SSLContext | None = None

    @classmethod
    def of(cls, url: str, sender: str, trust: ssl.SSLContext | None = None) -> SmtpMailer:
        """Raises `WrongSettings`, without the URL, which holds a secret."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            host, port, parts = "", None, urlsplit("")
        if parts.scheme not in ("smtp", "smtps") or not host:
            raise WrongSettings("DAYBOOK_SMTP_URL is smtp://user:password@host:587 or smtps://user:password@host:465.")
        implicit = parts.scheme == "smtps"
        return cls(
            host,
            port or (465 if implicit else 587),
            sender,
            implicit,
            plain=host in ("localhost", "127.0.0.1", "::1"),
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            trust=trust,
        )

    async def send(self, to: str, subject: str, text: str) -> None:
        try:
            await asyncio.to_thread(self._send, letter(self.sender, to, subject, text))
        except (OSError, smtplib.SMTPException, UnicodeError, ValueError) as error:
            raise MailLost(type(error).__name__) from None

    def _send(self, message: EmailMessage) -> None:
        trust = self.trust or ssl.create_default_context()
        if self.implicit_tls:
            server: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=_PATIENCE, context=trust)
        else:
            server = smtplib.SMTP(self.host, self.port, timeout=_PATIENCE)
        with server:
            if not self.implicit_tls:
                server.ehlo()
                if server.has_extn("starttls") or not self.plain:
                    server.starttls(context=trust)
            if self.user is not None:
                server.login(self.user, self.password or "")
            server.send_message(message)


@dataclass(frozen=True, slots=True)
class FileMailer:
    """Each letter is a file in a folder that its owner alone may read; whoever runs Daybook opens it there."""

    folder: Path
    sender: str = "Daybook <daybook@localhost>"

    async def send(self, to: str, subject: str, text: str) -> None:
        try:
            await asyncio.to_thread(self._write, letter(self.sender, to, subject, text))
        except (OSError, UnicodeError, ValueError) as error:
            raise MailLost(type(error).__name__) from None

    def _write(self, message: EmailMessage) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex[:12]}.eml"
        draft = self.folder / f".{name}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(message.as_bytes())
        draft.rename(self.folder / name)


def mailer_of(settings: Settings) -> Mailer:
    """A mail server where one is set, or else files in the data folder. Raises `WrongSettings`."""
    if settings.smtp_url is not None:
        return SmtpMailer.of(settings.smtp_url, settings.mail_from)
    return FileMailer(settings.data / "mail", settings.mail_from)


def letter(sender: str, to: str, subject: str, text: str) -> EmailMessage:
    """A plain letter (RFC 5322). Raises `ValueError` for a line break in what becomes a header."""
    message = EmailMessage(policy=SMTP if to.isascii() else SMTPUTF8)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = make_msgid(domain="daybook.invalid")
    # RFC 3834 §5: nobody's holiday notice is to answer it.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    return message
