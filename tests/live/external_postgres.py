"""Somebody else's Postgres for the tests: one cluster with TLS, databases and roles, a pgbouncer."""

from __future__ import annotations

import datetime as dt
import io
import ipaddress
import itertools
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from infra.targets.docker.engine.client import engine
from infra.targets.docker.engine.execution import execute

if TYPE_CHECKING:
    from docker import DockerClient

PASSWORD = "p@ss%word:with/'every\\thing"
PORT, POOLER_PORT = 5432, 6432
POOLER_IMAGE = "external-pgbouncer"
DOCKERFILE = """
ARG BASE
FROM ${BASE}
RUN apt-get update && DEBIAN_FRONTEND=noninteractive \\
    apt-get install -y --no-install-recommends pgbouncer
USER postgres
"""
START = """
letta-ops-initdb
cd "$PGDATA"; umask 077; echo "$CERTIFICATE" > server.crt; echo "$KEY" > server.key
exec letta-ops-postgres postgres -c ssl=on
"""
POOL = """
umask 077
cat > /tmp/pgbouncer.ini << END
[databases]
* = host=$SERVER port=5432
[pgbouncer]
listen_addr = *
listen_port = 6432
unix_socket_dir =
auth_type = scram-sha-256
auth_file = /tmp/users
pool_mode = transaction
END
printf "%s\\n" "$USERS" > /tmp/users
exec pgbouncer /tmp/pgbouncer.ini
"""
DATABASE = """
CREATE ROLE {name} LOGIN PASSWORD {password};
CREATE DATABASE {name};
REVOKE ALL ON DATABASE {name} FROM PUBLIC;
GRANT CONNECT, CREATE ON DATABASE {name} TO {name};
"""
SCHEMA = """
CREATE SCHEMA letta_tables AUTHORIZATION {name};
ALTER ROLE {name} IN DATABASE {name} SET search_path = letta_tables, public;
"""


@dataclass(frozen=True)
class External:
    """A cluster that no stack of ours made. `authority` signs its certificate (for another name)."""

    network: str
    container: str
    address: str
    pooler: str
    authority: str

    def sql(self, database: str, statements: str) -> str:
        words = ["psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database]
        answer = execute(self.container, words, statements)
        assert answer.code == 0, answer.output
        return answer.output.strip()

    def make(self, name: str, more: str = "") -> None:
        """A database, and a role of that name which may do little: its tables go into its schema."""
        password = "'" + PASSWORD.replace("'", "''") + "'"
        self.sql("postgres", DATABASE.format(name=name, password=password))
        self.sql(name, SCHEMA.format(name=name) + more)

    def url(self, name: str, query: str = "sslmode=require", *, password: str = PASSWORD) -> str:
        return (
            f"postgresql://{name}:{quote(password, safe='')}@{self.address}:{PORT}/{name}?{query}"
        )

    def pooled(self, name: str, query: str = "sslmode=disable") -> str:
        quoted = quote(PASSWORD, safe="")
        return f"postgresql://{name}:{quoted}@{self.pooler}:{POOLER_PORT}/{name}?{query}"


@contextmanager
def external(
    image: str, base: str, users: tuple[str, ...], *, named: bool = False
) -> Iterator[External]:
    """Yield a cluster of `image` and a pgbouncer before it; both are removed in the end. `named`: its
    certificate is for the address that it is reached by."""
    mark = f"external-{secrets.token_hex(4)}"
    with engine() as client:
        _build_pooler(client, base)
        name = f"{mark}-net"
        network = client.networks.create(name, driver="bridge")
        network.reload()
        subnet = ipaddress.IPv4Network(network.attrs["IPAM"]["Config"][0]["Subnet"])
        addresses = list(itertools.islice(subnet.hosts(), 8)) if named else []
        certificate, key, authority = certificates(addresses)
        made: list[Any] = []
        try:
            settings = {"CERTIFICATE": certificate, "KEY": key}
            made.append(_run(client, image, f"{mark}-postgres", name, START, settings))
            address = _address(made[0], name)
            escaped = PASSWORD.replace('"', '""')
            listing = "\n".join(f'"{user}" "{escaped}"' for user in users)
            settings = {"SERVER": address, "USERS": listing}
            made.append(_run(client, POOLER_IMAGE, f"{mark}-pooler", name, POOL, settings))
            pooler = _address(made[1], name)
            found = External(name, str(made[0].name), address, pooler, authority)
            _wait(found)
            yield found
        finally:
            for container in made:
                container.remove(force=True, v=True)
            network.remove()


def _build_pooler(client: DockerClient, base: str) -> None:
    client.images.build(
        fileobj=io.BytesIO(DOCKERFILE.encode()),
        tag=POOLER_IMAGE,
        buildargs={"BASE": base},
        network_mode="host",  # also where the engine's bridge has no way out
        rm=True,
    )


def _run(
    client: DockerClient, image: str, name: str, network: str, script: str, settings: dict[str, str]
) -> Any:
    return client.containers.run(
        image, entrypoint=["sh", "-euc", script], command=[], name=name, network=network,
        environment=settings, mem_limit="512m", healthcheck={"test": ["NONE"]},
        stop_signal="SIGKILL", detach=True,
    )  # fmt: skip


def _address(container: Any, network: str) -> str:
    container.reload()
    return str(container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"])


def _wait(found: External) -> None:
    words = ["psql", "-U", "postgres", "-c", "SELECT 1"]
    deadline = time.monotonic() + 60
    while execute(found.container, words).code != 0:
        assert time.monotonic() < deadline, "the external Postgres doesn't start"
        time.sleep(0.5)


def certificates(addresses: Iterable[ipaddress.IPv4Address] = ()) -> tuple[str, str, str]:
    """A server's certificate for these addresses and a name that it isn't reached by, its key, and who
    signed it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = dt.datetime.now(dt.UTC)
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "server")}
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the tests")])

    def signed(name: str, *, authority: bool) -> str:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            x509.CertificateBuilder()
            .subject_name(issuer if authority else subject)
            .issuer_name(issuer)
            .public_key(keys["authority" if authority else "server"].public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=2))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName(
                    [x509.DNSName(name), *(x509.IPAddress(each) for each in addresses)]
                ),
                critical=False,
            )
            .sign(keys["authority"], hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM).decode()

    key = keys["server"].private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    name = "db.example.com"
    return signed(name, authority=False), key.decode(), signed("authority", authority=True)
