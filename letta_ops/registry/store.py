"""The port of what keeps a registry: a Postgres, or a file of SQLite. One contract test runs on each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from letta_ops.registry.errors import AgentClaimed, RegistryUnavailable
from letta_ops.registry.links import Event, Key, Row, shown

VERSION = 1  # of the tables


class Store(Protocol):
    """Rows by key, and their history. Whatever changes does so in one transaction, and only if nobody
    else was quicker; `close` ends connections.

    All raise RegistryUnavailable when the store can't be reached, or refuses.
    """

    def find(self, key: Key) -> Row | None: ...

    def rows(
        self, app: str | None = None, *, agent: str | None = None, folded: str | None = None
    ) -> Iterator[Row]:
        """Those of an application, of an agent, or whose ids look the same; by key."""

    def replace(self, key: Key, was: Row | None, new: Row | None, event: Event | None) -> bool:
        """Put `new` in the place of `was` and `event` into the history, if agent and lease are still as
        in `was`; say whether they were. A lease that is new begins now. Without both, there is an event
        only.

        Raises AgentClaimed when another key has the agent of `new`.
        """

    def events(
        self, app: str | None = None, app_agent_id: str | None = None, *, agent: str | None = None
    ) -> Iterator[Event]:
        """The history, of an application, an id or an agent, the newest first."""

    def server(self) -> str | None:
        """What the server is called whose own database this is; None where it isn't, or nobody said."""

    def close(self) -> None: ...


def claimed(agent: str, key: str = "another id") -> AgentClaimed:
    return AgentClaimed(
        f"agent {agent} is that of {key}",
        "`letta-ops registry list --agent ID` shows to which; unlink that first if it is wrong",
    )


def ensure_known(version: int, place: str) -> None:
    """Raise RegistryUnavailable for a registry that a newer letta-ops has made."""
    if version > VERSION:
        raise RegistryUnavailable(
            f"the registry {shown(place)} is of version {version}, this letta-ops knows {VERSION}",
            "use the letta-ops that made it, or a newer one",
        )
