"""How the APIs speak TLS. In: the files of a certificate and its key. Out: what a server accepts connections with."""

from __future__ import annotations

import ssl

from infra.settings import Settings
from infra.troubles import WrongSettings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 and newer, with ciphers that are all forward-secret and authenticated (NIST SP 800-52
    r2 §3). `None` where no certificate is set. Raises `WrongSettings`, so that nobody starts unprotected by mistake."""
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # TLS 1.3 has its own list, which this leaves alone.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise WrongSettings(
            f"DAYBOOK_TLS_CERT and DAYBOOK_TLS_KEY name no certificate with its key, in PEM ({type(error).__name__})."
        ) from error
    return context
