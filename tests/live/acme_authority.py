"""An ACME authority for tests: Pebble, in a container beside the proxy that asks it."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.pulumi_cli.go_tools import GoTool, build_tool
from infra.stack.locations import cache_folder
from infra.targets.docker.engine.client import engine
from infra.targets.docker.names import LABEL_PREFIX, PROXY_CHALLENGE_PORT
from tests.live.docker_stack import BASE_VARIABLE, DockerStack

PEBBLE = GoTool("Pebble", "github.com/letsencrypt/pebble/v2/cmd/pebble")
PORT = 14000
DAY = datetime.timedelta(days=1)


@contextmanager
def authority(stack: DockerStack, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the URL of its directory and the certificate by which it is trusted."""
    name = f"{stack.names.prefix}-acme"
    build_tool(PEBBLE, folder / "pebble", cache_folder(), os.environ, print)
    _write(folder, name)
    with engine() as client:
        container = client.containers.run(
            os.environ.get(BASE_VARIABLE) or "debian:trixie-slim",
            ["/authority/pebble", "-config", "/authority/config.json"],
            name=name,
            labels={LABEL_PREFIX: stack.names.prefix},
            network=stack.names.outer_network,
            volumes={str(folder): {"bind": "/authority", "mode": "ro"}},
            environment={"PEBBLE_VA_NOSLEEP": "1"},
            detach=True,
        )
        try:
            yield f"https://{name}:{PORT}/dir", folder / "certificate.pem"
        finally:
            container.remove(force=True)


def _write(folder: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "acme test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    settings = {
        "listenAddress": f"0.0.0.0:{PORT}",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/authority/certificate.pem",
        "privateKey": "/authority/key.pem",
        "httpPort": PROXY_CHALLENGE_PORT,  # the proxy's own, since it asks from beside it
        "tlsPort": 8443,
    }
    (folder / "config.json").write_text(json.dumps({"pebble": settings}))
