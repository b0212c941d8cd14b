"""Letters, to a mail server and as files. The server is a real one (aiosmtpd)."""

from __future__ import annotations

import email
import email.policy
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from aiosmtpd.smtp import AuthResult, LoginPassword

from domain.ports import MailLost
from infra.mail import FileMailer, SmtpMailer, mailer_of
from infra.settings import Settings
from infra.troubles import WrongSettings
from tests.infra.test_cli import free_port

SENDER = "Daybook <clinic@example.org>"
TEXT = "Grüße,\n\nhttps://book.example.org/account/verify?token=" + "x" * 54 + "\n"


class Inbox(Message):
    def __init__(self) -> None:
        super().__init__()
        self.letters: list[email.message.Message] = []

    def handle_message(self, message: email.message.Message) -> None:
        self.letters.append(message)


@contextmanager
def server(**options: object) -> Iterator[tuple[Inbox, int]]:
    inbox = Inbox()
    port = free_port()
    controller = Controller(inbox, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield inbox, port
    finally:
        controller.stop()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate of its own for 127.0.0.1, and that of a client who trusts it."""
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=mail", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*made, *named], check=True, capture_output=True)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(cert, key)
    return serving, ssl.create_default_context(cafile=str(cert))


def words(message: email.message.Message) -> str:
    read = email.message_from_bytes(message.as_bytes(), policy=email.policy.default)
    body = read.get_body()
    assert body is not None
    return str(body.get_content())


def letters_in(folder: Path) -> list[Path]:
    return list(folder.glob("*"))


async def test_a_letter_arrives_in_plain_words() -> None:
    with server() as (inbox, port):
        await SmtpMailer.of(f"smtp://127.0.0.1:{port}", SENDER).send("ada@example.org", "Confirm – your address", TEXT)
    (letter,) = inbox.letters
    read = email.message_from_bytes(letter.as_bytes(), policy=email.policy.default)
    assert (read["From"], read["To"], read["Subject"]) == (SENDER, "ada@example.org", "Confirm – your address")
    assert read["Auto-Submitted"] == "auto-generated"
    assert words(letter).replace("\r\n", "\n") == TEXT


async def test_over_tls_with_a_password(certificate: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    serving, trusting = certificate
    seen: list[tuple[bytes, bytes]] = []

    def knows(server: object, session: object, envelope: object, mechanism: str, data: LoginPassword) -> AuthResult:
        seen.append((data.login, data.password))
        return AuthResult(success=data.password == b"p@ss")

    with server(tls_context=serving, require_starttls=True, authenticator=knows, auth_required=True) as (inbox, port):
        mailer = SmtpMailer.of(f"smtp://clinic:p%40ss@127.0.0.1:{port}", SENDER, trusting)
        await mailer.send("ada@example.org", "Hello", TEXT)
        with pytest.raises(MailLost):
            await SmtpMailer.of(f"smtp://clinic:wrong@127.0.0.1:{port}", SENDER, trusting).send("a@b.org", "x", "y")
    assert len(inbox.letters) == 1
    assert seen[0] == (b"clinic", b"p@ss")


async def test_a_server_whose_certificate_nobody_vouches_for_gets_nothing(
    certificate: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    with server(tls_context=certificate[0]) as (inbox, port), pytest.raises(MailLost):
        await SmtpMailer.of(f"smtp://127.0.0.1:{port}", SENDER).send("ada@example.org", "Hello", TEXT)
    assert inbox.letters == []


async def test_a_server_without_tls_gets_nothing_unless_it_is_this_machine() -> None:
    with server() as (inbox, port):
        mailer = SmtpMailer("127.0.0.1", port, SENDER, implicit_tls=False, plain=False)
        with pytest.raises(MailLost):
            await mailer.send("ada@example.org", "Hello", TEXT)
    assert inbox.letters == []
    assert SmtpMailer.of("smtp://mail.example.org", SENDER).plain is False
    assert SmtpMailer.of("smtps://mail.example.org", SENDER).port == 465


async def test_nobody_there_is_said_without_the_address_or_the_words() -> None:
    with server() as (_, port):
        pass
    with pytest.raises(MailLost) as lost:
        await SmtpMailer.of(f"smtp://127.0.0.1:{port}", SENDER).send("ada@example.org", "Hello", TEXT)
    assert str(lost.value) == "ConnectionRefusedError"
    assert lost.value.__cause__ is None


@pytest.mark.parametrize("to", ["ada@example.org\nBcc: mallory@example.org", "ada@example.org\r\n\r\nhello"])
async def test_an_address_adds_no_header(tmp_path: Path, to: str) -> None:
    with pytest.raises(MailLost):
        await FileMailer(tmp_path / "mail").send(to, "Hello", TEXT)
    assert letters_in(tmp_path / "mail") == []


async def test_without_a_server_letters_are_files_of_their_owner_alone(tmp_path: Path) -> None:
    mailer = mailer_of(Settings(data=tmp_path))
    await mailer.send("josé@example.org", "Hello", TEXT)
    (file,) = letters_in(tmp_path / "mail")
    assert (tmp_path / "mail").stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600
    read = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
    assert read["To"] == "josé@example.org"
    assert words(read).replace("\r\n", "\n") == TEXT


@pytest.mark.parametrize("url", ["mail.example.org", "http://mail.example.org", "smtp://", "smtp://u:secret@h:port"])
def test_a_url_that_names_no_mail_server_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(WrongSettings) as refused:
        mailer_of(Settings(smtp_url=url))
    assert "secret" not in str(refused.value)
