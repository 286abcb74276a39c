"""Bringing a database to a release's schema: alembic, run once, alone, logged without secrets."""

from __future__ import annotations

import datetime
import os
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from infra.database.administration import revision
from infra.database.clear_secrets import encrypt_clear
from infra.database.facts import database_facts
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.stack.profile import ENCRYPTION_KEY
from infra.stack.releases import OTHER_SCHEMA, RELEASES, needs_migration, release_at
from infra.stack.secrets import kept_value
from infra.targets.providers.provider import Properties, Provider

if TYPE_CHECKING:
    import psycopg

LOCK_KEY = 0x6C657474615F6F70  # "letta_op": one migration at a time, whoever starts it


class Migration(Provider):
    """Inputs: `release`, where the database is (a target's own). Output: `revision`.

    Runs the release's own alembic migrations once, as a step of its own with a log of its own;
    the server's start never migrates. `remove` leaves the schema: it is data. A target says how
    alembic is run.
    """

    kind: ClassVar[str] = "Migration"
    outputs: ClassVar[tuple[str, ...]] = ("revision",)
    compared: ClassVar[tuple[str, ...]] = ("release",)

    @abstractmethod
    def administrator(
        self, folder: StackFolder, inputs: Properties
    ) -> AbstractContextManager[psycopg.Connection[Any]]:
        """A connection to Letta's database that may change everything in it."""

    @abstractmethod
    def knows(self, folder: StackFolder, inputs: Properties, revision: str) -> bool:
        """Whether the release has a migration with this id."""

    @abstractmethod
    def alembic(
        self, folder: StackFolder, inputs: Properties, keep: Callable[[str], None], log: Path
    ) -> None:
        """Run `alembic upgrade head`; `keep` every line. Raises LettaOpsError when it fails."""

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        after = self._upgrade(folder, inputs)
        key = stack_key(folder)
        if key is not None and after == RELEASES[inputs["release"]].alembic_head:
            with self.administrator(folder, inputs) as link:
                encrypt_clear(link, database_facts(link).schema or "public", key)
        return inputs["release"], {"revision": after}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        """Compare the database's revision, when it can be reached, with the one we left it at."""
        try:
            with self.administrator(folder, outputs) as link:
                found = revision(link)
        except LettaOpsError:
            return None  # Postgres is down: its own service says so
        same = found == outputs["revision"]
        return None if same else f"the database is at {found}, not {outputs['revision']}"

    def _upgrade(self, folder: StackFolder, inputs: Properties) -> str:
        """Migrate to the head of the release and return the revision that the database has then.

        Raises LettaOpsError: `newer-schema` when the database is ahead of the release,
        `migration-failed` with the last lines of the log.
        """
        release = RELEASES[inputs["release"]]
        with self.administrator(folder, inputs) as link:
            link.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
            before = revision(link)
            if before == release.alembic_head:
                return before
            if before is not None and os.environ.get(OTHER_SCHEMA) == "leave":
                return before  # something that was interrupted is put right after this
            if before is not None and not self.knows(folder, inputs, before):
                raise LettaOpsError(
                    "newer-schema",
                    f"the database is at revision {before}, which Letta {release.version}"
                    " doesn't know",
                    "use the release that wrote this database, or restore a backup of this one",
                )
            if before is not None and os.environ.get(OTHER_SCHEMA) != "migrate":
                of = release_at(before)
                raise needs_migration(of.version if of else None, before, release.version)
            log = self._run(folder, inputs)
            # Not over `link`: it was silent all the while, and may have been cut.
            with self.administrator(folder, inputs) as fresh:
                after = revision(fresh)
        if after != release.alembic_head:
            raise LettaOpsError(
                "migration-failed",
                f"the database is at revision {after} after the migration, not"
                f" {release.alembic_head}",
                f"read {log}",
            )
        return after

    def _run(self, folder: StackFolder, inputs: Properties) -> Path:
        started = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        folder.logs.mkdir(exist_ok=True)
        log = folder.logs / f"migration-{started}.log"
        with log.open("x") as sink:
            log.chmod(0o600)

            def keep(line: str) -> None:
                sink.write(line + "\n")
                sink.flush()

            self.alembic(folder, inputs, keep, log)
        return log


def stack_key(folder: StackFolder) -> Sensitive | None:
    """What migrations encrypt with that find secrets in the clear: without it they leave them so, and
    never come back to it. The profile has it before anything is made."""
    key = kept_value(folder, ENCRYPTION_KEY)
    return None if key is None else Sensitive(key)


def failed_hint(log: Path) -> str:
    return f"read {log}, mend the cause, then run this again: it goes on where it was"
