"""How long is the server's certificate still good?"""

from __future__ import annotations

import datetime as dt
import socket
import ssl
from dataclasses import dataclass

from infra.api import CONNECT_SECONDS
from infra.errors import LettaOpsError
from infra.stack.deployment import Deployment
from infra.targets.facts import Measurement


@dataclass(frozen=True)
class Certificate(Measurement):
    """What the server shows in a TLS handshake, and the moment at which we looked."""

    subject: str
    issuer: str
    begins: dt.datetime
    ends: dt.datetime
    now: dt.datetime


def read_certificate(deployment: Deployment) -> Certificate:
    """Shake hands, and read the certificate whether it's trusted or not: an old one isn't.

    Raises LettaOpsError (`no-handshake`).
    """
    from cryptography import x509

    server = deployment.server
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent over it
    try:
        with (
            socket.create_connection((server.host, server.port), CONNECT_SECONDS) as link,
            context.wrap_socket(link, server_hostname=server.host) as secure,
        ):
            shown = secure.getpeercert(binary_form=True)
    except OSError as error:
        raise LettaOpsError(
            "no-handshake",
            f"no TLS handshake with {server.host} port {server.port}: {error}",
            "see whether the proxy runs: `letta-ops logs proxy`",
        ) from None
    if shown is None:
        raise LettaOpsError("no-handshake", "the server shows no certificate", "look at the proxy")
    read = x509.load_der_x509_certificate(shown)
    return Certificate(
        _name(read.subject) or server.host,
        _name(read.issuer),
        read.not_valid_before_utc,
        read.not_valid_after_utc,
        dt.datetime.now(dt.UTC),
    )


def _name(name: object) -> str:
    from cryptography import x509

    assert isinstance(name, x509.Name)  # noqa: S101  # for the type checker
    found = [*name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    return str(found[0].value) if found else name.rfc4514_string()
