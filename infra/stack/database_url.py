"""The URL of a Postgres that is there already, in the words of its three drivers. Pure but for a file.

libpq (the command line) reads `sslmode` and `sslrootcert`; asyncpg (the server) takes `ssl=` and
PGSSLROOTCERT; pg8000 (the migrations) takes neither, and is given its TLS by us.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from infra.sensitive import Sensitive
from infra.stack.deployment import Database, Role, database_from_url, postgres_uri

MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
VERIFYING = ("verify-ca", "verify-full")
SYSTEM = "system"  # libpq's word for the certificates that the system trusts
SYSTEM_FILE = "/etc/ssl/certs/ca-certificates.crt"  # in our images
EXAMPLE = "postgresql://ROLE:PASSWORD@HOST:PORT/DATABASE?sslmode=require"
POOLER_PORT = 6543  # Supabase's and pgbouncer's usual one
# What a driver of ours would not take, and what changes nothing when it is left out.
LEFT_OUT = ("application_name", "connect_timeout")
OTHER_WORDS = {"ssl": "write sslmode=...", "options": "set it with ALTER ROLE ... SET ..."}


def url_problems(url: Sensitive) -> Iterator[str]:
    """Yield what is wrong with `url`; never a part of it that may be secret."""
    try:
        parts = urlsplit(url.reveal())
        complete = parts.hostname and parts.username and parts.path.strip("/") and parts.port != 0
        parameters = parse_qsl(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        complete, parameters, parts = False, [], urlsplit("")
    if parts.scheme not in ("postgresql", "postgres") or not complete:
        yield f"must look like {EXAMPLE}"
        return
    if ":" in (parts.hostname or ""):
        yield "names an IPv6 address, which Letta can't read in a URL; use a name"
    for part, name in (("role", parts.username or ""), ("database", parts.path.strip("/"))):
        if (plain := unquote(name)) != quote(plain, safe=""):
            yield f"Letta can't use the {part} {plain!r}: only letters, digits and _ . - ~ in its name"
    password = unquote(parts.password or "")
    if password != password.rstrip() or "\n" in password:
        yield "has a password that ends with a space or holds a line break, which asyncpg can't take"
    yield from _parameter_problems(dict(parameters))


def asyncpg_uri(url: Sensitive) -> Sensitive:
    """What Letta's server connects with: asyncpg takes libpq's modes, under the name `ssl`.

    Without the password, which is in `password_file`: Letta copies its URL into settings that break
    on a `%`, and so on most special characters of a password in a URL.
    """
    database = database_from_url(url)
    return postgres_uri(database, Role(database.owner.name), f"ssl={database.tls}")


def password_file(url: Sensitive) -> Sensitive | None:
    """The content of a PGPASSFILE for asyncpg, which takes the password as it stands.

    libpq would have `:` and `\\` escaped; asyncpg doesn't undo that (connect_utils.py, 0.30).
    """
    password = database_from_url(url).owner.password
    return None if password is None else Sensitive(f"*:*:*:*:{password.reveal()}\n")


def as_document(url: Sensitive) -> dict[str, Any]:
    """`url` in parts, for a script inside a container; `authority` holds certificates, not a path."""
    database = database_from_url(url)
    password, file = database.owner.password, password_file(url)
    return {
        "host": database.host,
        "port": database.port,
        "database": database.name,
        "user": database.owner.name,
        "password": None if password is None else password.reveal(),
        "password_file": None if file is None else file.reveal(),
        "tls": database.tls,
        "authority": authority(database),
    }


def authority(database: Database) -> str | None:
    """The certificates to trust in PEM form, `system`, or None where the server isn't verified."""
    if database.authority in (None, SYSTEM):
        return database.authority
    return Path(database.authority).expanduser().read_text()


def secrets_of(*urls: Sensitive) -> tuple[Sensitive, ...]:
    """What of `urls` must be in no log: they themselves, and the passwords as they are and as quoted."""
    found: list[Sensitive] = []
    for url in urls:
        password = database_from_url(url).owner.password
        quoted = urlsplit(url.reveal()).password
        found += [url, *([password] if password else [])]
        found += [Sensitive(quoted)] if quoted else []
    return tuple(found)


def _parameter_problems(parameters: dict[str, str]) -> Iterator[str]:
    mode = parameters.get("sslmode", "prefer")
    if mode not in MODES:
        yield f"sslmode must be one of {', '.join(MODES)}, not {mode!r}"
    for name in parameters:
        if name not in ("sslmode", "sslrootcert", *LEFT_OUT):
            yield f"{name}: not every driver of Letta's knows it: {OTHER_WORDS.get(name, 'leave it out')}"
    path = parameters.get("sslrootcert")
    if mode in VERIFYING and not path:
        yield (
            f"sslmode={mode} needs sslrootcert=FILE with the certificate authority of the database,"
            " or sslrootcert=system"
        )
    if path and path != SYSTEM:
        yield from _file_problems(Path(path).expanduser())


def _file_problems(path: Path) -> Iterator[str]:
    try:
        if "-----BEGIN CERTIFICATE-----" not in path.read_text():
            yield f"sslrootcert: {path} holds no certificate in PEM form"
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        yield f"sslrootcert: {path} can't be read: {reason}"
