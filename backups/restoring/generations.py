"""What serves, what a restore makes beside it, and what it replaced: each a database, or a schema.

In the scope `database` each generation is a database of its own, and they change names. In the scope
`letta` they are schemas of one database, and Letta's tables change places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from backups.manifest import LETTA, DatabaseRecord
from backups.opening import Key
from backups.stores.store import Store
from infra.database.facts import is_plain_table
from infra.process import Report
from infra.stack.deployment import Deployment
from infra.targets import host
from infra.targets.target import Standby

if TYPE_CHECKING:
    import psycopg

    from backups.catalog import Backup

Moves = list[tuple[str, str]]  # old name, new name; in their order


@dataclass(frozen=True)
class Present:
    """What a generation holds; `newer_*` is what the backup doesn't have."""

    schema: str | None
    extension_schema: str | None
    revision: str | None
    agents: int
    messages: int
    newer_messages: int
    newer_agents: int


class Generations(Protocol):
    """Every method raises LettaOpsError, and psycopg.Error where nothing else is said.

    A generation has a number, which stays the same whatever it is called.
    """

    noun: str  # what one is: a database, a schema

    @property
    def live(self) -> str:
        """The name of the one that serves."""

    @property
    def must_be_alone(self) -> bool:
        """Whether nobody, the lock's session neither, may be connected where they change places."""

    def obstacles(self, backup: Backup) -> Iterable[Callable[[], object]]:
        """What raises LettaOpsError where a restore can't be made here."""

    def missing_roles(self, record: DatabaseRecord) -> list[str]:
        """Roles of the backup that are not here, where that takes something from a restore."""

    def slots(self) -> list[str]:
        """Slots of replication that stay with what is replaced."""

    def sessions(self, name: str) -> Mapping[str, str]:
        """What a server's sessions must have that works on one, also while it becomes the live one."""

    def exists(self, name: str) -> bool: ...

    def number(self, name: str) -> int:
        """0: there is none."""

    def name_of(self, number: int) -> str | None: ...

    def is_ours(self, name: str) -> bool:
        """Whether there is one of this name, and a restore has made it or set it aside."""

    def ensure_ours(self, name: str) -> None:
        """Raise LettaOpsError for one of this name that no restore has made."""

    def end_copies(self, name: str) -> None:
        """End what is still copying a live one to this name, for a command that was killed."""

    def adopt(self, name: str) -> None:
        """Mark one as made by a restore."""

    def drop(self, name: str) -> None:
        """Drop one that restores made; nothing happens where there is none."""

    def exchange(
        self, moves: Moves, *, rehearse: bool = False, standby: Standby | None = None
    ) -> list[str]:
        """Rename, all or none; return in words what is not as it was. `rehearse`: see whether that
        would work, where that can be seen. `standby` works on what becomes live."""

    def read(self, name: str, since: datetime | None) -> Present | None:
        """Count what one holds; None when it is missing, or was never migrated.

        Newer is what was made after `since`; nothing is, without one.
        """

    def owned(self, name: str) -> AbstractContextManager[tuple[psycopg.Connection[Any], str]]:
        """A session of the owner in one, and the schema of Letta's tables there."""

    def differences(self, name: str, record: DatabaseRecord) -> list[str]:
        """In words how the content of one differs from a backup's."""

    def make(
        self,
        name: str,
        present: Present | None,
        store: Store,
        backup: Backup,
        key: Key,
        scratch: Path,
        report: Report,
        *,
        trusted: bool,
    ) -> None:
        """Make one of a backup, equal to it; where that fails, nothing is left of it.

        `present` is what the live one holds, which goes on serving.
        """

    def carry_records(self, source: str, target: str) -> None:
        """Take the audit trail of one along to another, and the registry's links."""

    def freshen(self, name: str) -> None:
        """Give the planner its statistics: a dump brings none."""


@contextmanager
def generations_of(
    deployment: Deployment, scope: str, live: str | None = None
) -> Iterator[Generations]:
    """Yield the generations of a deployment in this scope; `live` is the name of the schema that
    serves, where that is known."""
    from backups.restoring.databases import Databases
    from backups.restoring.schemas import Schemas

    if scope == LETTA:
        with host(deployment).owner() as owner:
            yield Schemas.of(deployment, owner, live)
        return
    with host(deployment).administrator() as access:
        yield Databases(deployment, access)


def count(
    link: psycopg.Connection[Any],
    schema: str,
    extension_schema: str | None,
    revision: str | None,
    since: datetime | None,
) -> Present:
    """Count what the tables in `schema` hold. Raises psycopg.Error."""
    from psycopg import sql

    def numbers(table: str) -> tuple[int, int]:
        if not is_plain_table(link, schema, table):
            return 0, 0
        query = sql.SQL("SELECT count(*), count(*) FILTER (WHERE created_at > %s) FROM {}")
        row = link.execute(query.format(sql.Identifier(schema, table)), [since]).fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    agents, newer_agents = numbers("agents")
    messages, newer_messages = numbers("messages")
    return Present(
        schema, extension_schema, revision, agents, messages, newer_messages, newer_agents
    )
