"""Reading the certificate of a server, whether anyone trusts it or not."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from healthchecks.checks import CHECKS
from healthchecks.probes.certificate import read_certificate
from healthchecks.run import run
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment, Server
from tests.unit.test_reach import provider, self_signed


def deployment(port: int, scheme: str = "https") -> Deployment:
    return Deployment("prod", "external", Server(f"{scheme}://127.0.0.1:{port}"))


def test_the_end_of_a_certificate_is_read_from_the_handshake(tmp_path: Path) -> None:
    with provider(tls=self_signed(tmp_path)) as (port, _):
        seen = read_certificate(deployment(port))
    assert (seen.subject, seen.issuer) == ("a test", "a test")
    assert dt.timedelta(days=8) < seen.ends - seen.now < dt.timedelta(days=9)


def test_what_shows_no_certificate_is_said_so() -> None:
    with provider() as (port, _), pytest.raises(LettaOpsError) as caught:
        read_certificate(deployment(port))
    assert caught.value.code == "no-handshake"


def test_over_plain_http_there_is_no_certificate_to_look_at() -> None:
    checks = [check for check in CHECKS if check.name == "certificate"]
    with provider() as (port, _):
        (finding,) = run(deployment(port, "http"), checks=checks).findings
    assert not finding.checked
