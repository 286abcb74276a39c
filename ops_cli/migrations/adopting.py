"""A Letta database of somebody's own making: looked at before it comes in, and never written to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

from backups.archives.write import GIT_MEMORY_TAG
from backups.layout import LETTA_OPS
from backups.manifest import LETTA, WHOLE
from backups.rekey import opens, unopened, values_in
from infra.database.connection import connection
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.ciphertext import looks_encrypted
from infra.stack.deployment import THIS_MACHINE, Database, database_from_url
from infra.stack.releases import release_at
from ops_cli.migrations.contents import COUNTED, counts_of

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    from infra.targets.target import Installation

# Sessions of clients in this database, but for ours. Who may not see those of others, counts them here.
OTHERS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
AND coalesce(backend_type, 'client backend') = 'client backend' AND application_name <> 'letta-ops'
"""
OURS = """
SELECT 1 FROM pg_namespace WHERE nspname = %s AND NOT has_schema_privilege(oid, 'USAGE')
"""
SECONDS = 10.0
DRIVER = re.compile("^postgresql[+][a-z0-9]+://")  # as Letta's own default names one


@dataclass(frozen=True)
class Found:
    """What is there. `release` is None where we don't know which has this schema; `others` are sessions
    of somebody else; `sealed` are values that are encrypted, with `key`; `memories`
    are agents with git memory, which no database holds."""

    version: str
    schema: str
    revision: str
    release: str | None
    counts: dict[str, int]
    others: int
    sealed: int
    key: Sensitive | None
    memories: int

    @property
    def scope(self) -> str:
        """Which of it comes along: what is Letta's, where that is known."""
        return WHOLE if self.release is None else LETTA

    def as_json(self) -> dict[str, Any]:
        return {
            "postgres": self.version,
            "schema": self.schema,
            "revision": self.revision,
            "release": self.release,
            "counts": self.counts,
            "other_sessions": self.others,
            "encrypted_values": self.sealed,
            "git_memory_left_behind": self.memories,
        }


def ensure_ended(found: Installation) -> None:
    """Raise LettaOpsError (`source-in-use`) for a server that runs: one that has nothing to do is not
    connected to its database."""
    if found.runs:
        raise LettaOpsError(
            "source-in-use",
            f"the container {found.name} runs: what its server writes from now on would not come along",
            f"stop it (`{found.stop}`), then run this again; or say --in-use, to try it",
        )


def database_named_by(found: Installation) -> Sensitive | Path:
    """The URL of the database that a server's environment names, as it is reached from here; or the data
    folder, where its Postgres is inside of it and doesn't run.

    Raises LettaOpsError (`no-database-named`).
    """
    url = _named_url(found.environment)
    if url is None:
        raise LettaOpsError(
            "no-database-named",
            f"the environment of {found.name} names no Postgres: a release before 0.12 keeps its data in"
            " SQLite then",
            f"copy its sqlite.db out (`docker cp {found.name}:PATH .`) for `migrate from-sqlite`; or name"
            " the database: --database",
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "localhost", parts.port
    except ValueError:
        return Sensitive(url)  # `database_at` says so
    address = found.addresses.get(host)
    if address is None and host in THIS_MACHINE:
        if found.data is not None:
            return found.data
        raise LettaOpsError(
            "no-database-named",
            f"the Postgres of {found.name} is inside of it, doesn't run, and its data is in no volume",
            "start it, and say --in-use",
        )
    user, _, _ = parts.netloc.rpartition("@")
    there = f"{user}@{address or host}" + (f":{port}" if port else "")
    return Sensitive(parts._replace(netloc=there).geturl())


def _named_url(environment: Mapping[str, Sensitive]) -> str | None:
    """As Letta reads it, and the start of the official image, which has a Postgres of its own."""
    known = {name: value.reveal() for name, value in environment.items() if value.reveal()}
    if "LETTA_PG_URI" in known:
        return known["LETTA_PG_URI"]
    for form in ("LETTA_PG_{}", "POSTGRES_{}"):
        user, password, name = (known.get(form.format(each)) for each in ("USER", "PASSWORD", "DB"))
        if user and password and name:
            host, port = (known.get(form.format(each)) for each in ("HOST", "PORT"))
            login = f"{quote(user, safe='')}:{quote(password, safe='')}"
            return (
                f"postgresql://{login}@{host or 'localhost'}:{port or 5432}/{quote(name, safe='')}"
            )
    return None


def database_at(url: Sensitive) -> Database:
    """The database of a URL, which must say where it is. Raises LettaOpsError (`database-url`), without a
    word of it."""
    text = DRIVER.sub("postgresql://", url.reveal().strip())
    with suppress(ValueError):  # a port that is no number, for instance
        parts = urlsplit(text)
        more = set(dict(parse_qsl(parts.query))) - {"sslmode", "sslrootcert"}
        known = parts.scheme in ("postgresql", "postgres") and parts.hostname and parts.port != 0
        if known and not more and not set("/@") & set(parts.path.strip("/")):
            return database_from_url(Sensitive(text))
    raise LettaOpsError(
        "database-url",
        "that is no URL of a Postgres",
        "postgresql://ROLE:PASSWORD@HOST:PORT/NAME, with ?sslmode= and ?sslrootcert= where needed, and no"
        " other; what is special in a password is written as %2F, %40, %23",
    )


def look_at(
    database: Database, keys: list[Sensitive], *, in_use: bool, accept_lost_secrets: bool
) -> Found:
    """Look at a database that is to come in; `keys` are encryption keys that may be its.

    Raises LettaOpsError: `database-unreachable`, `not-letta`, `several-schemas`, `source-is-stack`,
    `source-in-use`, `wrong-encryption-key`.
    """
    from psycopg import sql

    with _session(database) as link:
        if link.execute(OURS, [LETTA_OPS]).fetchone():
            raise LettaOpsError(
                "source-is-stack",
                f"the database {database.name} is that of a stack of letta-ops, and is not all read by"
                f" {database.owner.name}",
                "move it by a backup: `letta-ops backup create` there, `letta-ops backup restore"
                " --into-other` here",
            )
        facts = database_facts(link)
        if facts.revision is None or facts.schema is None:
            raise LettaOpsError(
                "not-letta",
                f"the database {database.name} at {database.host}:{database.port} holds no tables of"
                f" Letta that {database.owner.name} may read",
                "see that the URL names the server's own database, and its role",
            )
        if len(facts.tables) > 1:
            homes = ", ".join(f"{each.schema} ({each.revision})" for each in facts.tables)
            raise LettaOpsError(
                "several-schemas",
                f"the database {database.name} holds Letta's tables {len(facts.tables)} times: {homes}",
                "one was made by mistake: put the right one first in the database's search_path, and"
                " rename or drop the other",
            )
        known = release_at(facts.revision)
        there = {
            name
            for (name,) in link.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace", [facts.schema]
            )
        }
        rows = {}
        for table in there & COUNTED.keys():
            query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(facts.schema, table))
            rows[table] = (link.execute(query).fetchone() or (0,))[0]
        memories = 0
        if "agents_tags" in there:
            query = sql.SQL("SELECT count(DISTINCT agent_id) FROM {} WHERE tag = %s").format(
                sql.Identifier(facts.schema, "agents_tags")
            )
            memories = (link.execute(query, [GIT_MEMORY_TAG]).fetchone() or (0,))[0]
        (others,) = link.execute(OTHERS).fetchone() or (0,)
        values = values_in(link, facts.schema)
    sealed = [each for column in values.values() for each in column if looks_encrypted(each)]
    found = Found(
        facts.version, facts.schema, facts.revision, known.version if known else None,
        counts_of(rows), others,
        len(sealed), next((key for key in keys if opens(values, key)), None), memories,
    )  # fmt: skip
    _ensure_alone(database, found, in_use=in_use)
    closed = Counter(unopened(values, found.key)) if found.key else Counter()
    if closed and not accept_lost_secrets:
        raise LettaOpsError(
            "wrong-encryption-key",
            f"{closed.total()} of {len(sealed)} secrets are not opened by the key that opens the others:"
            f" {', '.join(closed)}",
            "set them anew there, with its server; or go on without them: --accept-lost-secrets",
        )
    if sealed and found.key is None and not accept_lost_secrets:
        raise LettaOpsError(
            "wrong-encryption-key",
            f"{len(sealed)} secrets of the database are encrypted, and no key that is known here opens"
            " them",
            "give the server's LETTA_ENCRYPTION_KEY: --encryption-key file:PATH",
        )
    return found


def written_since(database: Database, found: Found) -> dict[str, int]:
    """How many more there are of what was counted in `found`: whoever should have been stopped goes on.
    Empty also where the database does not answer any more."""
    with suppress(LettaOpsError):
        now = look_at(database, [], in_use=True, accept_lost_secrets=True).counts
        return {words: now[words] - was for words, was in found.counts.items() if now[words] != was}
    return {}


@contextmanager
def _session(database: Database) -> Iterator[psycopg.Connection[Any]]:
    import psycopg

    settings = database.connection(database.owner)
    # In one transaction: a setting of a session would stay with a pooler, and be somebody else's next.
    try:
        with connection(settings, seconds=SECONDS) as link, link.transaction():
            link.execute("SET TRANSACTION READ ONLY")
            yield link
    except psycopg.Error as error:
        raise LettaOpsError(
            "database-privileges",
            f"the database {database.name} can't be read as {database.owner.name}:"
            f" {error.diag.message_primary or type(error).__name__}",
            "give the URL of the role that the server uses: it owns the tables",
        ) from None


def _ensure_alone(database: Database, found: Found, *, in_use: bool) -> None:
    if not found.others or in_use:
        return
    raise LettaOpsError(
        "source-in-use",
        f"{found.others} others are connected to {database.name} at {database.host}:{database.port}: what"
        " they write from now on would not come along",
        "stop its Letta server, then run this again; or say --in-use, to try it",
    )
