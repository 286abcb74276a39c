"""One agent for each of an application's ids: found, made once, or a clear error."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.identity import person
from letta_ops.registry.errors import (
    AlreadyLinked,
    KeyRefused,
    RegistryError,
    RegistryUnavailable,
)
from letta_ops.registry.links import UNLINKED, Event, Key, Link, Row, check_agent_id, shown
from letta_ops.registry.making import (
    FOUND,
    THERE,
    Make,
    Making,
    changed,
    ensure_free,
    gone,
    no_link,
)
from letta_ops.registry.server import LettaServer
from letta_ops.registry.store import Store, claimed
from letta_ops.registry.template import Difference, Template, apply, differences

SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Ensured:
    """The agent of an id. `outcome`: it was `there`, was `created` now, or `found`, made by somebody who
    didn't come to linking it. `alike` are the application's ids that look the same; `differences` what a
    template says otherwise, `updated` whether that was changed."""

    link: Link
    outcome: str
    alike: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    updated: bool = False

    @property
    def letta_agent_id(self) -> str:
        return self.link.letta_agent_id


class Registry:
    """The registry of one Letta server, in `store`.

    `server` may be None where nothing is made: then what is there is looked up only. `server_name` is
    what the registry calls it; `app` the application for which nobody names another. Safe to be used by
    many threads, and by any number of processes and machines at once.

    Methods raise KeyRefused for ids that can't be kept, and RegistryUnavailable.
    """

    def __init__(
        self,
        store: Store,
        server: LettaServer | None,
        *,
        server_name: str = "",
        app: str = "",
        who: str = "",
    ) -> None:
        self.store, self.server = store, server
        self._name = server_name
        self._app, self._who = app, who or person()

    @classmethod
    def open(
        cls,
        database: str,
        *,
        server: str | None = None,
        password: str | None = None,
        authority: str | None = None,
        app: str = "",
        connections: int = 10,
    ) -> Registry:
        """`database` is `postgresql://...` or `sqlite:///PATH`; `server` the URL of Letta, with its
        `password`, and `authority` a file with the certificates to trust."""
        letta = LettaServer.at(server, password, authority=authority) if server else None
        return cls(open_store(database, connections=connections), letta, app=app)

    @property
    def server_name(self) -> str:
        """What links call the server."""
        if not self._name:
            self._name = self.store.server() or (self.server.url if self.server else "")
        return self._name

    def get(self, app_agent_id: str, *, app: str | None = None, check: bool = False) -> Link:
        """The link of an id. Raises NoLink; AgentGone where its agent is known not to be there.

        Where the registry is not in the server's own database, nobody asks the server but with `check`.
        """
        link = self.linked(app_agent_id, app=app)
        doubtful = link.there is False or (check and link.there is None)
        if doubtful and not self._is_there(link):
            raise gone(link)
        return link

    def linked(self, app_agent_id: str, *, app: str | None = None) -> Link:
        """The same, whether its agent is there or not."""
        key = self._key(app_agent_id, app)
        row = self.store.find(key)
        if row is None or row.link is None:
            raise no_link(key)
        return row.link

    def ensure(
        self,
        app_agent_id: str,
        *,
        app: str | None = None,
        template: Template | None = None,
        values: Mapping[str, str] | None = None,
        make: Make | None = None,
        recreate: bool = False,
        update: bool = False,
        dry_run: bool = False,
    ) -> Ensured:
        """Return the agent of an id; it is made where there never was one, once, however many ask.

        It is made with `template`, its placeholders filled with `values`, or by `make`. `recreate`: also
        where the server says that the agent which there was is gone. `update`: what the template says
        otherwise than when it was applied is changed.

        Raises AgentGone, AgentsDuplicated, AgentClaimed, ServerUnavailable, ServerRefused, StillMaking,
        TemplateWrong, and what `make` raises: then nothing was made, or the next call finds it. NoLink
        with `dry_run`, where one would be made.
        """
        key = self._key(app_agent_id, app)
        wanted = template.filled(key, values) if template else None
        row = self.store.find(key)
        if row is not None and row.link is not None:
            if row.link.there or self._is_there(row.link):
                return self.kept(row.link, wanted, update=update, dry_run=dry_run)
            if not recreate:
                raise gone(row.link)
        making = Making(self, key, wanted, make, row.agent if row else None, recreate)
        if dry_run:
            if (found := making.found()) is None:
                raise no_link(key)
            return Ensured(self.new_link(key, found, "made for it before"), FOUND)
        link, outcome = making.run()
        if outcome == THERE:
            return self.kept(link, wanted)
        return Ensured(link, outcome, self.alike_ids(key))

    def link(
        self,
        app_agent_id: str,
        letta_agent_id: str,
        *,
        app: str | None = None,
        reason: str = "",
        move: bool = False,
        dry_run: bool = False,
    ) -> Ensured:
        """Link an agent that is there. Raises AlreadyLinked where the id has another one, but with
        `move`; AgentClaimed, AgentGone, ServerUnavailable."""
        key = self._key(app_agent_id, app)
        check_agent_id(letta_agent_id)
        row = self.store.find(key)
        if row is not None and row.agent == letta_agent_id:
            return Ensured(row.link, THERE)  # type: ignore[arg-type]  # it has one
        if row is not None and row.agent is not None and not move:
            raise AlreadyLinked(
                f"{key} is linked to {row.agent}",
                "to link it to another agent, say so (`--move`); the history keeps both",
            )
        link = self.new_link(key, letta_agent_id, reason or "linked by hand")
        if not self._is_there(link):
            raise gone(link)
        for other in self.store.rows(agent=letta_agent_id):
            raise claimed(letta_agent_id, str(other.key))
        if dry_run:
            return Ensured(link, "linked", self.alike_ids(key))
        self.put(link, "moved" if row and row.link else "linked", row)
        self._mark_anew(link, row.link if row else None)
        return Ensured(link, "linked", self.alike_ids(key))

    def _mark_anew(self, link: Link, before: Link | None) -> None:
        """Else the agent would be found for the id that it was made for."""
        if self.server is None:
            return
        try:
            if before is not None and self.server.exists(before.letta_agent_id):
                self.server.mark(before.letta_agent_id, None)
            self.server.mark(link.letta_agent_id, link.key)
        except RegistryError as error:
            error.add_note(
                "the link is made, but the agent doesn't say so: `reconcile --apply` does it"
            )
            raise

    def unlink(self, app_agent_id: str, *, app: str | None = None, reason: str = "") -> Link:
        """Forget a link, and keep it in the history; the agent stays. Raises NoLink, StillMaking."""
        key = self._key(app_agent_id, app)
        row = self.store.find(key)
        if row is None or row.link is None:
            raise no_link(key)
        ensure_free(row)
        event = Event.now(self._who, key, UNLINKED, None, row.agent, reason or "unlinked by hand")
        if not self.store.replace(key, row, None, event):
            raise changed(key)
        return row.link

    def put(self, link: Link, what: str, was: Row | None) -> None:
        """Put a link where `was` is. Raises AlreadyLinked when somebody was quicker, AgentClaimed."""
        ensure_free(was)
        if not self.store.replace(link.key, was, Row(link.key, link), self.event(link, what, was)):
            raise changed(link.key)

    def close(self) -> None:
        self.store.close()
        if self.server is not None:
            self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _key(self, app_agent_id: str, app: str | None) -> Key:
        return Key.of(self._app if app is None else app, app_agent_id)

    def _is_there(self, link: Link) -> bool:
        """As the server says; where there is none to ask, as the database did."""
        return self.server.exists(link.letta_agent_id) if self.server else link.there is not False

    def kept(
        self,
        link: Link,
        wanted: Mapping[str, Any] | None,
        *,
        update: bool = False,
        dry_run: bool = False,
    ) -> Ensured:
        if wanted is None or link.template == wanted or link.moved_out:
            return Ensured(link, THERE)
        server = self.letta()
        agent = server.agent(link.letta_agent_id)
        found = differences(link.template, wanted, agent)
        if dry_run or (found and not update):
            return Ensured(link, THERE, differences=tuple(found))
        apply(server, agent, found, wanted)
        new = replace(link, template=wanted)
        self.store.replace(link.key, Row(link.key, link), Row(link.key, new), None)
        return Ensured(new, THERE, differences=tuple(found), updated=bool(found))

    def alike_ids(self, key: Key) -> tuple[str, ...]:
        rows = self.store.rows(key.app, folded=key.folded)
        return tuple(row.key.id for row in rows if row.key != key)

    def letta(self) -> LettaServer:
        if self.server is None:
            raise RegistryUnavailable(
                "this registry was opened without a server: it can't tell whether an agent is there",
                "name the server when the registry is opened",
            )
        return self.server

    def new_link(
        self, key: Key, agent: str, reason: str, template: Mapping[str, Any] | None = None
    ) -> Link:
        now = dt.datetime.now(dt.UTC)
        return Link(key.app, key.id, agent, self.server_name, now, self._who, reason, template)

    def event(self, link: Link, what: str, was: Row | None) -> Event:
        before = was.agent if was else None
        return Event.now(self._who, link.key, what, link.letta_agent_id, before, link.reason)


def open_store(database: str, *, connections: int = 10, base: Path | None = None) -> Store:
    """`base` is the folder from which a file is named. Nothing is connected yet; raises KeyRefused for a
    URL that names no registry."""
    if database.startswith(SQLITE):
        from letta_ops.registry.sqlite import SqliteStore

        path = Path(database.removeprefix(SQLITE)).expanduser()
        if base is None and not path.is_absolute():
            raise KeyRefused(
                f"{shown(str(path))} is another file in every folder",
                "write where it is from the root: sqlite:////var/lib/shop/links.sqlite3",
            )
        return SqliteStore(path if base is None else base / path)
    if database.startswith(("postgresql://", "postgres://")):
        from letta_ops.registry.postgres import PostgresStore

        return PostgresStore(database, connections=connections)
    scheme = database.partition("://")[0] if "://" in database else "that"
    raise KeyRefused(
        f"{scheme} is no place for a registry",
        "give postgresql://ROLE:PASSWORD@HOST/NAME, or sqlite:///PATH",
    )
