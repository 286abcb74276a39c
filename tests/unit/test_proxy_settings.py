"""nginx's settings: what clients meet; and which servers they are sent to."""

from __future__ import annotations

from infra.targets.docker.proxy_settings import (
    LETS_ENCRYPT,
    acme_settings,
    nginx_settings,
    servers_of,
    upstream,
)

OFF = {"mode": "off", "host": "localhost"}
INTERNAL = {"mode": "internal", "host": "letta.example"}
ACME = {"mode": "acme", "host": "letta.example", "email": "ops@example.org"}


def test_the_servers_can_be_read_back() -> None:
    text = upstream("letta-1a", ["a-1", "a-2"])
    assert text == "http://letta-1a:8283 a-1 a-2"
    assert servers_of(f"{text}\n") == ["a-1", "a-2"]


def test_other_servers_need_no_other_settings() -> None:
    """A reload closes clients' idle connections, while they may be sending the next request."""
    assert "js_set $letta route.upstream;" in nginx_settings(OFF, 10)


def test_something_else_names_no_servers() -> None:
    assert servers_of("") == []
    assert servers_of("server { listen 80; }") == []


def test_without_tls_there_is_no_certificate_and_no_strict_transport() -> None:
    text = nginx_settings(OFF, 10)
    assert "ssl" not in text
    assert "Strict-Transport-Security" not in text
    assert "listen 8080;" in text


def test_with_tls_there_are_both_and_http_2() -> None:
    text = nginx_settings(INTERNAL, 10)
    assert "ssl_certificate /secrets/proxy-certificate.pem;" in text
    assert "http2 on;" in text
    assert "Strict-Transport-Security" in text
    assert "TLSv1.1" not in text


def test_answers_are_streamed_and_requests_are_limited() -> None:
    text = nginx_settings(OFF, 42)
    assert "proxy_buffering off;" in text
    assert "client_max_body_size 42m;" in text
    assert "proxy_read_timeout 3600s;" in text


def test_acme_answers_challenges_over_plain_http_and_sends_all_else_to_tls() -> None:
    text = nginx_settings(ACME, 10)
    assert "/.well-known/acme-challenge/" in text
    assert "return 308 https://" in text
    assert "ssl_certificate /data/acme/live/certificate.pem;" in text


def test_acme_settings_are_shell_words() -> None:
    text = acme_settings({**ACME, "host": "a b", "acme_directory": "", "acme_ca": ""})
    assert "host='a b'" in text
    assert LETS_ENCRYPT in text
    assert acme_settings(INTERNAL) == ""
