"""Reaching a server: whom its clients trust."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from infra.api import http
from infra.stack.deployment import Deployment, Server

REMOTE = ("https://127.0.0.1:9", "https://letta.example.org", "http://letta.example.org")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9"])
def test_where_nothing_is_encrypted_no_authorities_are_read(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssl, "create_default_context", _not_asked)
    http(Deployment("x", "local", Server(url))).close()


@pytest.mark.parametrize("url", REMOTE)
def test_everywhere_else_they_are(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "create_default_context", _not_asked)
    with pytest.raises(AssertionError, match="authorities"):
        http(Deployment("x", "local", Server(url)))


def _not_asked(*_: Any, **__: Any) -> None:
    raise AssertionError("the authorities were read")
