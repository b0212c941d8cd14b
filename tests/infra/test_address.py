"""An address is the peer's, and what a header says only as far as our own proxies wrote it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.http.address import FORWARDED, Outside, Proxies, client_address, is_https, reached_by

OURS = ("10.0.0.0/8", "fd00::/8")


def asked(peer: str | None, *headers: tuple[str, str], proxies: Proxies | None = None) -> str:
    scope: dict[str, Any] = {
        "type": "http",
        "client": (peer, 4711) if peer is not None else None,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    if proxies is not None:
        reached_by(scope, Outside(proxies))
    return client_address(scope)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("testclient", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_without_proxies_it_is_the_peer(peer: str | None, address: str) -> None:
    claims = [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=203.0.113.9")]
    assert asked(peer, *claims) == address


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
        ("203.0.113.9:5000", "203.0.113.9"),
        ("[2001:db8::9]:5000", "2001:db8::9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("10.9.9.9", "10.9.9.9"),
        ("6.6.6.6, not an address", "10.0.0.1"),
        ("6.6.6.6, unknown, 10.2.2.2", "10.2.2.2"),
        ("", "10.0.0.1"),
        ("6.6.6.6," * 2000, "10.0.0.1"),
    ],
)
def test_behind_our_proxies_it_is_the_last_entry_that_none_of_them_wrote(line: str, address: str) -> None:
    assert asked("10.0.0.1", ("x-forwarded-for", line), proxies=Proxies.of(OURS)) == address


def test_several_headers_are_one_list() -> None:
    lines = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.9, 10.1.1.1")]
    assert asked("10.0.0.1", *lines, proxies=Proxies.of(OURS)) == "203.0.113.9"


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("for=203.0.113.9", "203.0.113.9"),
        ('For="[2001:db8:cafe::17]:4711";proto=https', "2001:db8:cafe::17"),
        ("for=6.6.6.6, by=10.0.0.1;for=203.0.113.9;host=a", "203.0.113.9"),
        ('for="6.6.6.6, for=6.6.6.6", for=203.0.113.9', "203.0.113.9"),
        ("for=_hidden", "10.0.0.1"),
        ("proto=https", "10.0.0.1"),
        ('for="203.0.113.9', "10.0.0.1"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_writes_it(line: str, address: str) -> None:
    assert asked("10.0.0.1", (FORWARDED, line), proxies=Proxies.of(OURS, "Forwarded")) == address


def test_the_header_that_our_proxies_do_not_write_is_the_callers_word() -> None:
    assert asked("10.0.0.1", ("forwarded", "for=6.6.6.6"), proxies=Proxies.of(OURS)) == "10.0.0.1"
    assert asked("10.0.0.1", ("x-forwarded-for", "6.6.6.6"), proxies=Proxies.of(OURS, "Forwarded")) == "10.0.0.1"


@given(st.sampled_from(["x-forwarded-for", "forwarded"]), st.text(st.characters(max_codepoint=255), max_size=200))
def test_a_peer_that_is_none_of_ours_is_never_believed(header: str, line: str) -> None:
    assert asked("192.0.2.7", (header, line), proxies=Proxies.of(OURS, header)) == "192.0.2.7"


@given(st.text(st.characters(max_codepoint=255), max_size=60), st.ip_addresses())
def test_what_a_caller_puts_in_front_changes_nothing(invented: str, real: Any) -> None:
    proxies = Proxies.of(OURS)
    alone = asked("10.0.0.1", ("x-forwarded-for", str(real)), proxies=proxies)
    if not proxies.trust(real):
        assert asked("10.0.0.1", ("x-forwarded-for", f"{invented}, {real}"), proxies=proxies) == alone


@pytest.mark.parametrize(("networks", "header"), [(["10.0.0.1/8"], FORWARDED), (["x"], FORWARDED), ([], "X-Real-IP")])
def test_what_is_no_network_or_header_is_refused(networks: list[str], header: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Proxies.of(networks, header)


@pytest.mark.parametrize(
    ("scheme", "outside", "https"), [("http", False, False), ("https", False, True), ("http", True, True)]
)
def test_https_is_what_the_connection_or_the_settings_say(scheme: str, outside: bool, https: bool) -> None:
    scope: dict[str, Any] = {"type": "http", "scheme": scheme, "headers": [(b"x-forwarded-proto", b"https")]}
    reached_by(scope, Outside(https=outside))
    assert is_https(scope) is https
