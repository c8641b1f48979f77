"""Which hosts a token may go to."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

import jetpay_async
from jetpay_async import DEMO_URL, PRODUCTION_URL, ConfigurationError
from jetpay_async._core.endpoints import SANDBOX_TOKEN_PREFIX, check_base_url, check_token

VENDOR = "baselinepayments.com"
GATEWAY = "https://gateway.example.com"
PLAIN_GATEWAY = "http://gateway.internal:8080"
TRUSTED = [GATEWAY, PLAIN_GATEWAY, "https://[2001:db8::1]:8443", "http://localhost.:8080"]

TAKEN = [
    ("production", PRODUCTION_URL, PRODUCTION_URL),
    ("demo", DEMO_URL, DEMO_URL),
    ("a slash at the end", f"{PRODUCTION_URL}/", PRODUCTION_URL),
    ("slashes at the end", f"{PRODUCTION_URL}//", PRODUCTION_URL),
    ("a path", f"{PRODUCTION_URL}/v2/x%20y/", f"{PRODUCTION_URL}/v2/x%20y"),
    ("an at sign in the path", f"{PRODUCTION_URL}/@v2", f"{PRODUCTION_URL}/@v2"),
    ("a port", f"{PRODUCTION_URL}:8443", f"{PRODUCTION_URL}:8443"),
    ("capitals", "HTTPS://EXTAPI.Jetpay.BaselinePayments.COM", "HTTPS://EXTAPI.Jetpay.BaselinePayments.COM"),
    ("the vendor's domain", f"https://{VENDOR}", f"https://{VENDOR}"),
    ("a dot at the end of the host", f"https://api.{VENDOR}.", f"https://api.{VENDOR}."),
    ("loopback by name", "http://localhost:8080", "http://localhost:8080"),
    ("loopback by name in capitals", "http://LOCALHOST", "http://LOCALHOST"),
    ("a trusted origin with a dot", "http://localhost.:8080", "http://localhost.:8080"),
    ("loopback by IPv4", "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ("another loopback by IPv4", "http://127.1.2.3", "http://127.1.2.3"),
    ("loopback by IPv6", "http://[::1]:8080", "http://[::1]:8080"),
    ("loopback with TLS", "https://127.0.0.1:8443", "https://127.0.0.1:8443"),
    ("a trusted origin", GATEWAY, GATEWAY),
    ("a trusted origin with a path", f"{GATEWAY}/jetpay/", f"{GATEWAY}/jetpay"),
    ("a trusted origin in capitals", "HTTPS://Gateway.Example.COM", "HTTPS://Gateway.Example.COM"),
    ("a trusted origin without TLS", PLAIN_GATEWAY, PLAIN_GATEWAY),
    ("a trusted origin by IPv6", "https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
]

NO_HOST = "is not a host of Jetpay, and the API token would be sent there"
UNENCRYPTED = "is unencrypted, and the API token would be readable on the way"
NO_URL = "must be https://, a host and at most a port and a path, in plain ASCII"

INVALID: list[tuple[str, Any, str]] = [
    ("None", None, "is a str such as jetpay_async.PRODUCTION_URL, not NoneType"),
    ("bytes", PRODUCTION_URL.encode(), "not bytes"),
    ("a URL object", URL(PRODUCTION_URL), "not URL"),
    ("empty", "", NO_URL),
    ("no scheme", VENDOR, NO_URL),
    ("no scheme but slashes", f"//{VENDOR}", NO_URL),
    ("another scheme", f"ftp://{VENDOR}", NO_URL),
    ("a script", "javascript:alert(1)", NO_URL),
    ("no host", "https://", NO_URL),
    ("no host but a path", "https:///path", NO_URL),
    ("no host but a port", "https://:443", NO_URL),
    ("a user", f"https://user@{VENDOR}", NO_URL),
    ("a user and password", f"https://user:secret-password@{VENDOR}", NO_URL),
    ("the vendor as user", f"https://{VENDOR}@evil.example", NO_URL),
    ("a query", f"https://{VENDOR}?a=b", NO_URL),
    ("a query behind a path", f"https://{VENDOR}/?a=b", NO_URL),
    ("an empty query", f"https://{VENDOR}?", NO_URL),
    ("a fragment", f"https://{VENDOR}/#a", NO_URL),
    ("an empty fragment", f"https://{VENDOR}#", NO_URL),
    ("the vendor in a fragment", f"https://evil.example#.{VENDOR}", NO_URL),
    ("a space before", f" https://{VENDOR}", NO_URL),
    ("a space behind", f"https://{VENDOR} ", NO_URL),
    ("a line break within", f"https://{VENDOR}/\r\nX-Evil: 1", NO_URL),
    ("a line break behind", f"https://{VENDOR}\n", NO_URL),
    ("a control character before", f"\x00https://{VENDOR}", NO_URL),
    ("a control character behind", f"https://{VENDOR}\x00", NO_URL),
    ("a backslash", f"https://evil.example\\.{VENDOR}", NO_URL),
    ("a backslash and the vendor as user", f"https://evil.example\\@{VENDOR}", NO_URL),
    ("an encoded slash", f"https://evil.example%2F.{VENDOR}", NO_URL),
    ("an encoded NUL", f"https://evil.example%00.{VENDOR}", NO_URL),
    ("a semicolon in the host", f"https://evil.example;.{VENDOR}", NO_URL),
    ("an empty label", f"https://api..{VENDOR}", NO_URL),
    ("no label", f"https://.{VENDOR}", NO_URL),
    ("two dots behind", f"https://{VENDOR}..", NO_URL),
    ("another script", f"https://\u0430pi.{VENDOR}", NO_URL),
    ("a full-width dot", "https://api\uff0ebaselinepayments.com", NO_URL),
    ("another script in the path", f"https://{VENDOR}/\u0430", NO_URL),
    ("a lone surrogate", f"https://{VENDOR}/\ud800", NO_URL),
    ("no number as port", f"https://{VENDOR}:https", NO_URL),
    ("an empty port", f"https://{VENDOR}:", NO_URL),
    ("digits of another script as port", f"https://{VENDOR}:\u0663", NO_URL),
    ("a port out of range", f"https://{VENDOR}:99999", "is not a URL: Port out of range"),
    ("half a bracket", "http://[::1", NO_URL),
    ("brackets and more", f"http://[::1].{VENDOR}", NO_URL),
    ("a zone", "http://[::1%25eth0]", NO_URL),
    ("no IPv6", "http://[:::::::::]", "is not a URL: "),
    ("another host", "https://example.com", f"example.com {NO_HOST}"),
    ("a look-alike ending", f"https://evil{VENDOR}", NO_HOST),
    ("a look-alike beginning", f"https://{VENDOR}.evil.example", NO_HOST),
    ("the vendor as path", f"https://evil.example/{VENDOR}", NO_HOST),
    ("the vendor with a dash", f"https://evil-{VENDOR}", NO_HOST),
    ("a public address", "https://192.0.2.1", NO_HOST),
    ("a trusted host at another port", f"{GATEWAY}:444", NO_HOST),
    ("a name below a trusted host", "https://evil.gateway.example.com", NO_HOST),
    ("production without TLS", f"http://extapi.jetpay.{VENDOR}", UNENCRYPTED),
    ("a trusted host without TLS", "http://gateway.example.com", UNENCRYPTED),
    ("a private address without TLS", "http://192.168.0.1", UNENCRYPTED),
    ("any address of this machine", "http://0.0.0.0:8080", UNENCRYPTED),
    ("a name below localhost, which some resolver would have to know", "http://sandbox.localhost:8080", UNENCRYPTED),
    ("a look-alike of loopback", "http://localhost.evil.example", UNENCRYPTED),
    ("another look-alike of loopback", "http://127.0.0.1.evil.example", UNENCRYPTED),
    ("loopback by name with a dot, which a resolver of the network may answer", "http://localhost.", UNENCRYPTED),
    ("loopback by name with a dot, over TLS", "https://localhost.", f"localhost. {NO_HOST}"),
    ("loopback by IPv4 with a dot", "http://127.0.0.1.", UNENCRYPTED),
    ("loopback in short", "http://127.1", UNENCRYPTED),
    ("loopback in hexadecimal", "http://0x7f000001", UNENCRYPTED),
    ("loopback with zeros in front", "http://127.0.0.01", UNENCRYPTED),
]


@pytest.mark.parametrize(("url", "kept"), [row[1:] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_a_token_may_go_to_jetpay_loopback_and_trusted_origins(url: str, kept: str) -> None:
    """Jetpay's hosts over TLS, this machine, and what the caller said to trust are taken, without slash at the end."""
    assert check_base_url(url, TRUSTED) == kept


@pytest.mark.parametrize(("url", "reason"), [row[1:] for row in INVALID], ids=[row[0] for row in INVALID])
def test_a_token_may_go_nowhere_else(url: Any, reason: str) -> None:
    """Any other URL is refused, by an error that says why and shows no password."""
    with pytest.raises(ConfigurationError) as caught:
        check_base_url(url, TRUSTED)

    assert str(caught.value).startswith("base_url: ")
    assert reason in str(caught.value)
    assert "secret-password" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("url", ["https://Gateway.example:8443/path", "http://gateway.example"], ids=["https", "http"])
def test_the_refusal_says_how_to_trust_an_origin(url: str) -> None:
    """What the error suggests makes the URL acceptable."""
    with pytest.raises(ConfigurationError) as caught:
        check_base_url(url, ())

    origin = f"{urlsplit(url).scheme}://{urlsplit(url).netloc.lower()}"
    assert f"trusted_origins=[{origin!r}]" in str(caught.value)
    assert check_base_url(url, [origin]) == url


def test_a_trusted_origin_may_end_in_a_slash() -> None:
    """An origin as a browser shows it is understood, in any case."""
    assert check_base_url(GATEWAY, [f"{GATEWAY.upper()}/"]) == GATEWAY


def test_a_string_of_an_origin_is_no_list_of_origins() -> None:
    """A forgotten pair of brackets trusts nothing."""
    with pytest.raises(ConfigurationError, match=r"trusted_origins=\['https://gateway.example.com'\]"):
        check_base_url(GATEWAY, GATEWAY)


hostile = st.text(alphabet=f"{VENDOR}evil./\\@:#?%[]0 \t\x00\u0430\uff0f\u3002", max_size=30)


@given(
    st.builds(
        "{}{}{}".format, st.sampled_from(["https://", "http://", ""]), hostile, st.sampled_from(["", f".{VENDOR}"])
    )
)
@example(f"https://evil.example\\.{VENDOR}")
def test_every_parser_finds_the_host_that_was_checked(url: str) -> None:
    """Where a URL is taken, the library that connects sees the same host, and it is one of Jetpay's."""
    try:
        taken = check_base_url(url, ())
    except ConfigurationError:
        return

    host = (URL(taken).raw_host or "").rstrip(".")
    assert host == (urlsplit(taken).hostname or "").rstrip(".")
    assert host == VENDOR or host.endswith(f".{VENDOR}")
    assert URL(taken).scheme == "https"
    assert URL(taken).user is URL(taken).password is None


# --- tokens -----------------------------------------------------------------------------------------------------------

SANDBOX_TOKEN = f"{SANDBOX_TOKEN_PREFIX}abc"


@pytest.mark.parametrize(
    ("token", "url"),
    [
        ("abc", PRODUCTION_URL),
        ("A1-._~+/=:|", PRODUCTION_URL),
        ("x" * 5000, PRODUCTION_URL),
        ("abc", "http://127.0.0.1"),
        (SANDBOX_TOKEN, "http://127.0.0.1:8080"),
        (SANDBOX_TOKEN, "http://localhost:8080"),
        (SANDBOX_TOKEN, PLAIN_GATEWAY),
    ],
    ids=[
        "short",
        "punctuation",
        "long",
        "to loopback",
        "sandbox by address",
        "sandbox by name",
        "sandbox that is trusted",
    ],
)
def test_a_token_is_taken_as_it_is(token: str, url: str) -> None:
    """A token is any run of visible characters, for a host that it is not clearly the wrong one for."""
    assert check_token(token, url) == token


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (None, "is a str, or an async function returning one, not NoneType"),
        (b"secret", "not bytes"),
        (7, "not int"),
        ("", "is empty, or holds a space"),
        (" secret", "is empty, or holds a space"),
        ("secret\n", "is empty, or holds a space"),
        ("Bearer secret", "is empty, or holds a space"),
        ("secret\r\nX-Evil: 1", "is empty, or holds a space"),
        ("secret\x00", "is empty, or holds a space"),
        ("s\u00e9cret", "is empty, or holds a space"),
        ("\u2022\u2022\u2022secret", "is empty, or holds a space"),
    ],
    ids=["None", "bytes", "int", "empty", "space", "line break", "Bearer", "header", "NUL", "accent", "bullets"],
)
def test_what_is_no_token_is_refused_without_showing_it(token: Any, reason: str) -> None:
    """A token that can't be sent is refused at once, and not even then shown."""
    with pytest.raises(ConfigurationError, match=r"^api_token: ") as caught:
        check_token(token, PRODUCTION_URL)

    assert reason in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("url", [PRODUCTION_URL, DEMO_URL, f"https://{VENDOR.upper()}.", f"{PRODUCTION_URL}:8443/v2"])
def test_a_sandbox_token_does_not_go_to_jetpay(url: str) -> None:
    """A configuration that mixes the sandbox with the service is found before the first call."""
    with pytest.raises(ConfigurationError, match="sandbox's token, but base_url is Jetpay's") as caught:
        check_token(SANDBOX_TOKEN, url)

    assert SANDBOX_TOKEN not in str(caught.value)


def test_the_public_urls_are_these() -> None:
    """The two URLs of the package are the vendor's, over TLS."""
    assert jetpay_async.PRODUCTION_URL == "https://extapi.jetpay.baselinepayments.com"
    assert jetpay_async.DEMO_URL == "https://extapi.demo.jetpay.baselinepayments.com"
