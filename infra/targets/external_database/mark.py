"""A database that we didn't make: the extension and our mark in it, as far as its one role may."""

from __future__ import annotations

from typing import ClassVar

from infra.database.claim import CLAIMED, claim, claimed_by
from infra.database.facts import find_pgvector
from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.stack.profile import remember
from infra.targets.external_database.preflight import owner_session
from infra.targets.providers.provider import Properties, Provider


class ExternalDatabase(Provider):
    """Inputs: `uri` (the direct one), `deployment_id` (refused when the database is another's).

    `remove` leaves both, as everything in the database: it isn't ours to clear up. A stack that is
    deleted with its data leaves its mark too, so that no other one takes its agents for its own.
    """

    compared: ClassVar[tuple[str, ...]] = ("uri", "deployment_id")

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        import psycopg

        with owner_session(Sensitive(inputs["uri"])) as link:
            try:
                if find_pgvector(link) is None:
                    link.execute("CREATE EXTENSION IF NOT EXISTS vector")
                claim(link, inputs["deployment_id"])
            except psycopg.errors.InsufficientPrivilege as error:
                raise LettaOpsError(
                    "database-privileges",
                    f"the external database refuses {link.info.user}: {error.diag.message_primary}",
                    "docs/external-database.md says what the role needs",
                ) from None
            remember(folder.profile, {CLAIMED: str(link.info.dbname)})
            return str(link.info.dbname), {}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        try:
            with owner_session(Sensitive(outputs["uri"])) as link:
                if find_pgvector(link) is None:
                    return "the extension vector is missing"
                found = claimed_by(link)
        except LettaOpsError:
            return None  # it can't be reached: the preflight says so
        same = found == outputs["deployment_id"]
        return None if same else f"the database belongs to {found or 'nobody'}"
