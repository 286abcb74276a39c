"""What the restored copy says by itself, before a server touches it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from backups.contents import compare
from backups.humanize import time_in_words
from backups.manifest import Manifest
from backups.verdicts import FAILED, PASSED, UNVERIFIED, CheckResult
from healthchecks.drill.verdict import COUNTS, DATABASE, FRESHNESS, REVISION, SECRET
from healthchecks.probes.encryption import encrypted_columns
from infra.embedded.release import InstalledRelease
from infra.sensitive import Sensitive
from infra.stack.ciphertext import decrypted, looks_encrypted

if TYPE_CHECKING:
    import psycopg

COUNTED = ("agents", "messages", "archival_passages", "source_passages")
TOLD = 3  # differences that a summary names
TRIED = 12  # each value has a salt of its own: 40 ms
SKEW = dt.timedelta(minutes=5)  # the clocks of server and database may differ


def judge_content(link: psycopg.Connection[Any], manifest: Manifest) -> CheckResult:
    """Every row of every table, and the sequences, against the manifest."""
    different = compare(link, manifest.database)
    if different:
        more = f", and {len(different) - TOLD} more" if len(different) > TOLD else ""
        return CheckResult(DATABASE, FAILED, "; ".join(different[:TOLD]) + more)
    tables = manifest.database.tables
    rows = sum(table.rows for table in tables.values())
    return CheckResult(DATABASE, PASSED, f"{rows} rows in {len(tables)} tables, as in the manifest")


def judge_counts(link: psycopg.Connection[Any], manifest: Manifest) -> CheckResult:
    """The numbers that people ask for."""
    from psycopg import sql

    said, wrong = [], []
    for name in COUNTED:
        wanted = manifest.database.rows(name)
        if wanted is None:
            continue
        table = sql.Identifier(str(manifest.database.schema), name)
        found = _value(link, sql.SQL("SELECT count(*) FROM {}").format(table))
        said.append(f"{found} {name.replace('_', ' ')}")
        if found != wanted:
            wrong.append(f"{found} {name.replace('_', ' ')}, the manifest says {wanted}")
    if not said:
        return CheckResult(COUNTS, FAILED, "the manifest names no table of Letta")
    if wrong:
        return CheckResult(COUNTS, FAILED, "; ".join(wrong))
    return CheckResult(COUNTS, PASSED, ", ".join(said))


def judge_revision(
    link: psycopg.Connection[Any], manifest: Manifest, release: InstalledRelease | None
) -> CheckResult:
    """The schema's revision is that of the manifest, and one of the release (None: not at hand)."""
    from psycopg import sql

    table = sql.Identifier(str(manifest.database.schema), "alembic_version")
    found = _value(link, sql.SQL("SELECT version_num FROM {}").format(table))
    if found is None or found != manifest.database.revision:
        wanted = manifest.database.revision
        return CheckResult(REVISION, FAILED, f"is {found}, the manifest says {wanted}")
    if release is None:
        return CheckResult(
            REVISION, UNVERIFIED, f"{found}; whether the release has it can't be seen"
        )
    version = release.release.version
    if not release.knows(found):
        return CheckResult(REVISION, FAILED, f"Letta {version} does not know {found}")
    return CheckResult(REVISION, PASSED, f"{found}, which Letta {version} knows")


def judge_secret(link: psycopg.Connection[Any], key: Sensitive | None, whose: str) -> CheckResult:
    """Some encrypted values of each column open with `key`, which is `whose`."""
    tried: list[str] = []
    for column, values in encrypted_columns(link):
        sealed = [value for value in values if looks_encrypted(value)]
        for value in sealed[: min(1, TRIED - len(tried))]:
            if key is None:
                return CheckResult(
                    SECRET,
                    UNVERIFIED,
                    f"{column} is encrypted with a key that is not at hand",
                    "let the key go along with the next backup (backup.recipients), or keep a copy",
                )
            if decrypted(key, value) is None:
                return CheckResult(SECRET, FAILED, f"{column} does not open with {whose}")
            tried.append(column)
    if not tried:
        return CheckResult(SECRET, PASSED, "there are no encrypted values in the backup")
    places = ", ".join(tried[:TOLD])
    return CheckResult(SECRET, PASSED, f"{whose} opens what was tried: {places}")


def judge_freshness(
    link: psycopg.Connection[Any], manifest: Manifest, now: dt.datetime
) -> CheckResult:
    """The newest message is the one that the manifest saw, and no younger than the backup."""
    from psycopg import sql

    table = sql.Identifier(str(manifest.database.schema), "messages")
    newest = _value(link, sql.SQL("SELECT max(created_at) FROM {}").format(table))
    if newest != manifest.newest_message_at:
        return CheckResult(
            FRESHNESS,
            FAILED,
            f"the newest message is of {_time(newest)}, the manifest says"
            f" {_time(manifest.newest_message_at)}",
        )
    made = f"the backup is {time_in_words((now - manifest.created_at).total_seconds())} old"
    if newest is None:
        return CheckResult(FRESHNESS, PASSED, f"{made}, without a message")
    if newest > manifest.created_at + SKEW:
        return CheckResult(
            FRESHNESS, FAILED, f"a message of {_time(newest)} is younger than the backup"
        )
    before = time_in_words((manifest.created_at - newest).total_seconds())
    return CheckResult(
        FRESHNESS, PASSED, f"{made}; its newest message was written {before} before it"
    )


def _time(moment: dt.datetime | None) -> str:
    return "no time" if moment is None else f"{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


def _value(link: psycopg.Connection[Any], query: Any) -> Any:
    row = link.execute(query).fetchone()
    return None if row is None else row[0]
