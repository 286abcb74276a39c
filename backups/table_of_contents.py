"""The table of contents of a dump: it is at its beginning, which can be read without the rest."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from backups.manifest import DatabaseRecord, Manifest
from backups.programs import Program, Version, find_restore
from backups.stores.store import Source
from backups.streams import CHUNK
from infra.process import command, run

# What is made by itself, ahead of a dump or after it.
MADE_OTHERWISE = (
    "EXTENSION", "COMMENT - EXTENSION", "COMMENT - SCHEMA public",
    "EVENT TRIGGER", "COMMENT - EVENT TRIGGER",
)  # fmt: skip
# Entries that show the table, or type, that they belong to behind its schema.
OF_A_TABLE = (
    "TYPE", "TABLE", "DEFAULT", "TABLE DATA", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT",
)  # fmt: skip
OF_A_SCHEMA = ("SEQUENCE", "SEQUENCE OWNED BY", "SEQUENCE SET", "INDEX")
# What the entry of a comment names in another order than its own: `NAME ON TABLE`.
ON_A_TABLE = ("POLICY", "TRIGGER", "RULE", "CONSTRAINT")
# Kind, schema and the rest of an entry that may be left out.
KIND = re.compile(
    r"((?:FK|CHECK|FOREIGN DATA|OPERATOR|ACCESS|TEXT SEARCH|PROCEDURAL|SHELL|PUBLICATION TABLES IN) \S+"
    r"|\S+)"
    r" (\S+) (.*)",
    re.DOTALL,
)
BEGINNING = 32 << 20  # bytes: many times what Letta's takes


def read_beginning(source: Source, file: IO[bytes]) -> int:
    """Write the beginning of a dump, with the whole table of contents, to `file`; return its size."""
    size = 0
    while size < BEGINNING and (chunk := source.read(min(CHUNK, BEGINNING - size))):
        file.write(chunk)
        size += len(chunk)
    file.flush()
    return size


def entries(program: Program, beginning: Path, **telling: Any) -> list[str]:
    """Return the lines of pg_restore's list; raises LettaOpsError as `telling` says."""
    return run(command(program.path, "--list", beginning), **telling).stdout.splitlines()


def reader_of(manifest: Manifest, server: int | None = None) -> Program:
    """Return the pg_restore that reads a backup's dump, for a server of this major version."""
    dumped_with = Version.parse(manifest.tools["pg_dump"]).major
    return find_restore(server or dumped_with, dumped_with)


@dataclass(frozen=True)
class Entry:
    """One line of pg_restore's list: `number` is that of its catalog and of its row in it."""

    line: str
    number: str
    text: str  # kind, schema, name, owner: nothing is quoted
    by_administrator: bool = False

    @property
    def after_data(self) -> bool:
        """Whether it is made after the data, as far as it may be an administrator who makes it."""
        return self.text.startswith(("PUBLICATION", "COMMENT - PUBLICATION"))


def chosen_entries(
    listing: Iterable[str], record: DatabaseRecord, missing: Collection[str], *, trusted: bool
) -> tuple[tuple[Entry, ...], list[str]]:
    """Return what is restored of a dump, and in words what can't be.

    `missing`: the roles that are not here. `trusted`: an administrator makes what its owner may not.
    """
    rights = record.rights
    policies = rights.policies if rights else {}
    privileged = rights.privileged if rights else {}
    homes = {
        record.pgvector_schema or "public",
        *(each.schema for each in record.extensions.values()),
    }
    before = (*MADE_OTHERWISE, *(f"SCHEMA - {home} " for home in homes))
    chosen: list[Entry] = []
    left_out: list[str] = []
    gone: set[str | None] = set()
    theirs: set[str | None] = set()
    for line in listing:
        if line.startswith(";"):
            continue
        catalog, row, text = line.partition("; ")[2].split(" ", 2)
        number, comment_of = f"{catalog} {row}", _comment_of(text)
        if text.startswith(before) or comment_of in gone:
            continue
        # A comment is restored together with what it is on, or not at all.
        entry = Entry(line, number, text, number in privileged or comment_of in theirs)
        if lacking := sorted(set(policies.get(entry.number, ())) & set(missing)):
            left_out.append(f"{text}: role {', '.join(lacking)} is not here")
        elif number in record.leaning:
            left_out.append(f"{text}: it needs something of others, which is not in the backup")
        elif entry.by_administrator and not trusted:
            left_out.append(f"{text}: only an administrator may make it, of a signed backup")
        else:
            chosen.append(entry)
            if number in privileged:
                theirs.add(_commented(text))
            continue
        gone.add(_commented(text))
    return tuple(chosen), left_out


def own_entries(
    listing: Iterable[str], homes: Collection[tuple[str, str]], *, with_security: bool
) -> tuple[Entry, ...]:
    """Return what of a dump may belong to the tables, sequences and types in `homes`, by schema and name.

    The list doesn't say of indexes and sequences whose they are, and quotes no name: what is somebody
    else's is told apart by its statement. Nothing that an application may hang on a table is returned:
    policies, triggers, rules, statistics; `with_security`: row level security is.
    """
    kinds = (*OF_A_TABLE, "ROW SECURITY") if with_security else OF_A_TABLE
    begins = tuple(
        text
        for schema, name in homes
        for text in (
            *(f"{kind} {schema} {name} " for kind in kinds),
            *(f"COMMENT {schema} {kind} {name} " for kind in ("TABLE", "TYPE")),
            f"COMMENT {schema} COLUMN {name}.",
        )
    )
    schemas = {schema for schema, _ in homes}
    begins += tuple(f"{kind} {schema} " for schema in schemas for kind in OF_A_SCHEMA)
    found = []
    for line in listing:
        if not line.startswith(";"):
            catalog, row, text = line.partition("; ")[2].split(" ", 2)
            if text.startswith(begins):
                found.append(Entry(line, f"{catalog} {row}", text))
    return tuple(found)


def _commented(text: str) -> str:
    """What `_comment_of` returns for the comment of this entry."""
    kind, schema, name = KIND.match(text).groups()  # type: ignore[union-attr]  # all are such
    kind = kind.rpartition(" ")[2] if kind.endswith(" CONSTRAINT") else kind
    return _key(schema, kind, name.split() if kind in ON_A_TABLE else [name])


def _comment_of(text: str) -> str | None:
    """Of a comment, on what it is."""
    kind, _, rest = text.partition(" ")
    if kind != "COMMENT":
        return None
    schema, of, name = rest.split(" ", 2)
    if of not in ON_A_TABLE:
        return _key(schema, of, [name])
    words = name.split()  # NAME ON TABLE OWNER
    words.remove("ON")
    return _key(schema, of, words)


def _key(schema: str, kind: str, words: list[str]) -> str:
    return f"{schema} {kind} {' '.join(sorted(words))}"
