"""Verifying a backup: every part read back and compared; what couldn't be looked at never passes."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from backups.catalog import Backup
from backups.crypto import damaged
from backups.humanize import size_in_words
from backups.manifest import CONFIGURATION, DATABASE, KEY_ESCROW, MEMORY, Part
from backups.opening import Key, opened_part, stored_chunks
from backups.signing import Signers
from backups.sources.memory_files import summarise
from backups.sources.rows import count_rows
from backups.stores.store import Source, Store
from backups.streams import chunks_of
from backups.table_of_contents import entries, read_beginning, reader_of
from backups.verdicts import FAILED, PASSED, UNVERIFIED, CheckResult
from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive
from infra.stack.fingerprint import key_fingerprint

SIGNATURE = "signature"
OF_THE_BACKUP = ("part-damaged", "part-missing", "manifest-damaged")
WITHOUT_KEY = ("identity-missing", "wrong-identity")


def verify(store: Store, backup: Backup, key: Key, report: Report) -> list[CheckResult]:
    """Read every part of `backup` back. Raises what the store raises when it can't be asked."""
    found = []
    for part in backup.manifest.parts:
        report(f"{part.name}: reading {size_in_words(part.size)}")
        found.append(_checked(store, backup, part, key))
    return found


def judge_signature(backup: Backup, signers: Signers) -> CheckResult:
    """Whether it is known who made the backup."""
    try:
        signers.ensure(backup.manifest)
    except LettaOpsError as error:
        verdict = FAILED if error.code == "backup-forged" else UNVERIFIED
        return CheckResult(SIGNATURE, verdict, error.message, error.hint)
    assert backup.manifest.signature is not None  # noqa: S101  # that was ensured
    return CheckResult(SIGNATURE, PASSED, f"of {backup.manifest.signature.signer}")


def _checked(store: Store, backup: Backup, part: Part, key: Key) -> CheckResult:
    try:
        if part.encryption is None and part.compression is None:
            for _ in stored_chunks(store, backup, part):
                pass  # compared at the end
            return CheckResult(part.name, PASSED, "stored bytes are what was written")
        with opened_part(store, backup, part.name, key) as source:
            if part.table is not None:
                summary = _rows(source, backup, part.table)
            else:
                summary = LOOKS.get(part.name, _read_to_the_end)(source, backup)
    except LettaOpsError as error:
        if error.code in OF_THE_BACKUP:
            return CheckResult(part.name, FAILED, error.message)
        if error.code not in WITHOUT_KEY:
            raise
        return _without_key(store, backup, part, error)
    return CheckResult(part.name, PASSED, summary)


def _without_key(store: Store, backup: Backup, part: Part, error: LettaOpsError) -> CheckResult:
    try:
        for _ in stored_chunks(store, backup, part):
            pass  # compared at the end
    except LettaOpsError as worse:
        if worse.code not in OF_THE_BACKUP:
            raise
        return CheckResult(part.name, FAILED, worse.message)
    return CheckResult(
        part.name,
        UNVERIFIED,
        f"stored bytes are what was written, but nobody could look inside: {error.message}",
    )


def _read_to_the_end(source: Source, _backup: Backup) -> str:
    return f"{sum(map(len, chunks_of(source)))} bytes are what went in"


def _database(source: Source, backup: Backup) -> str:
    """Keep the beginning of the dump for its table of contents, and read on to the end."""
    with tempfile.NamedTemporaryFile(prefix="verify-") as beginning:
        size = read_beginning(source, beginning)
        size += sum(map(len, chunks_of(source)))
        found = entries(
            reader_of(backup.manifest),
            Path(beginning.name),
            code="part-damaged",
            hint="use another backup (`letta-ops backup list`)",
            what="reading the dump's table of contents",
        )
    tables = backup.manifest.database.tables
    there = tables_in(found, tables)
    apart = {part.table for part in backup.manifest.parts if part.table is not None}
    if missing := sorted(set(tables) - apart - there):
        raise damaged("the dump's table of contents", f"lacks {', '.join(missing)}")
    if twice := sorted(apart & there):
        raise damaged("the dump", f"holds rows that are parts of their own: {', '.join(twice)}")
    return f"{size} bytes are what went in; its table of contents has all {len(there)} tables"


def tables_in(listing: Iterable[str], names: Iterable[str]) -> set[str]:
    """Of the tables called `schema.name` those whose rows are in a dump, as pg_restore lists it."""
    # "3412; 0 16388 TABLE DATA public agents letta": nothing is quoted, so that names with spaces can
    # be told apart only by what is known; the longest that fits is it.
    known = {f"{_plain(name)} ": name for name in names}
    rows = [_plain(line.partition(" TABLE DATA ")[2]) for line in listing]
    fitting = [[begin for begin in known if row.startswith(begin)] for row in rows]
    return {known[max(begins, key=len)] for begins in fitting if begins}


def _plain(name: str) -> str:
    return re.sub(r"[.\r\n]", " ", name)  # of a line's end pg_restore makes a space, too


def _rows(source: Source, backup: Backup, table: str) -> str:
    try:
        found = count_rows(source)
    except ValueError as error:
        raise damaged(f"the rows of {table}", str(error)) from None
    wanted = backup.manifest.database.tables[table].rows
    if found != wanted:
        raise damaged(f"the rows of {table}", f"are {found}, the manifest says {wanted}")
    return f"all {found} rows of {table}"


def _memory(source: Source, backup: Backup) -> str:
    found = summarise(source)
    if found != backup.manifest.memory:
        raise damaged("the git memory", "its files are not those that the manifest counts")
    return f"{found.repositories} repositories with {found.files} files"


def _configuration(source: Source, _backup: Backup) -> str:
    try:
        json.loads(b"".join(chunks_of(source)))
    except ValueError as error:
        raise damaged("the configuration", str(error)) from None
    return "can be read"


def _key(source: Source, backup: Backup) -> str:
    text = b"".join(chunks_of(source)).decode(errors="replace")
    if key_fingerprint(Sensitive(text)) != backup.manifest.key_fingerprint:
        raise damaged("the encryption key that is kept along", "is not the one of this backup")
    return "the encryption key is the one of this backup"


LOOKS: dict[str, Callable[[Source, Backup], str]] = {
    DATABASE: _database,
    MEMORY: _memory,
    CONFIGURATION: _configuration,
    KEY_ESCROW: _key,
}
