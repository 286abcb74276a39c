"""One agent for each of an application's ids: found, made once, or a clear error."""

from __future__ import annotations

import datetime as dt
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.errors import LettaOpsError
from infra.identity import person
from letta_ops.registry.errors import (
    AgentClaimed,
    AgentGone,
    AgentsDuplicated,
    AlreadyLinked,
    KeyRefused,
    NoLink,
    RegistryUnavailable,
    ServerUnavailable,
    StillMaking,
)
from letta_ops.registry.links import Event, Key, Link, Row, shown
from letta_ops.registry.server import REQUEST_SECONDS, LettaServer
from letta_ops.registry.store import Store
from letta_ops.registry.template import Difference, Template, apply, body_of, differences

# Whoever makes an agent may have been killed while the server goes on: so long nobody else makes one.
LEASE_SECONDS = 2 * REQUEST_SECONDS
WAIT_SECONDS = 1.5 * LEASE_SECONDS
FIRST_POLL, LONGEST_POLL = 0.05, 1.0
ASK_SERVER_EVERY = 2.0  # seconds, for the agent of somebody who was killed before he linked it
SQLITE = "sqlite:///"

THERE, CREATED, FOUND = "there", "created", "found"
# Makes an agent that carries the key's tag and metadata, and returns its id.
Make = Callable[[Key], str]


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
        self.server_name = server_name or (server.url if server else "")
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

    def get(self, app_agent_id: str, *, app: str | None = None) -> Link:
        """The link of an id. Raises NoLink; AgentGone where its agent is known not to be there."""
        key = self._key(app_agent_id, app)
        row = self.store.find(key)
        if row is None or row.link is None:
            raise _no_link(key)
        if row.link.there is False and not self._is_there(row.link):
            raise _gone(row.link)
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
                return self._kept(row.link, wanted, update=update and not dry_run)
            if not recreate:
                raise _gone(row.link)
        if dry_run:
            raise _no_link(key)
        return self._made(key, wanted, make, row.agent if row else None, recreate=recreate)

    def link(
        self,
        app_agent_id: str,
        letta_agent_id: str,
        *,
        app: str | None = None,
        reason: str = "",
        move: bool = False,
    ) -> Ensured:
        """Link an agent that is there. Raises AlreadyLinked where the id has another one, but with
        `move`; AgentClaimed, AgentGone, ServerUnavailable."""
        key = self._key(app_agent_id, app)
        row = self.store.find(key)
        if row is not None and row.agent == letta_agent_id:
            return Ensured(row.link, THERE)  # type: ignore[arg-type]  # it has one
        if row is not None and row.agent is not None and not move:
            raise AlreadyLinked(
                f"{key} is linked to {row.agent}",
                "to link it to another agent, say so (`--move`); the history keeps both",
            )
        link = self._new(key, letta_agent_id, reason or "linked by hand")
        if not self._is_there(link):
            raise _gone(link)
        self.put(link, "moved" if row and row.link else "linked", row)
        return Ensured(link, "linked", self._alike(key))

    def unlink(self, app_agent_id: str, *, app: str | None = None, reason: str = "") -> Link:
        """Forget a link, and keep it in the history; the agent stays. Raises NoLink, StillMaking."""
        key = self._key(app_agent_id, app)
        row = self.store.find(key)
        if row is None or row.link is None:
            raise _no_link(key)
        _ensure_free(row)
        gone = replace(row.link, reason=reason or "unlinked by hand")
        event = replace(self._event(gone, "unlinked", row), letta_agent_id=None)
        if not self.store.replace(key, row, None, event):
            raise _changed(key)
        return row.link

    def put(self, link: Link, what: str, was: Row | None) -> None:
        """Put a link where `was` is. Raises AlreadyLinked when somebody was quicker, AgentClaimed."""
        _ensure_free(was)
        if not self.store.replace(link.key, was, Row(link.key, link), self._event(link, what, was)):
            raise _changed(link.key)

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

    def _kept(self, link: Link, wanted: Mapping[str, Any] | None, *, update: bool) -> Ensured:
        if wanted is None or link.template == wanted:
            return Ensured(link, THERE)
        server = self._letta()
        agent = server.agent(link.letta_agent_id)
        found = differences(link.template, wanted, agent)
        if found and not update:
            return Ensured(link, THERE, differences=tuple(found))
        apply(server, agent, found, wanted)
        new = replace(link, template=wanted)
        self.store.replace(link.key, Row(link.key, link), Row(link.key, new), None)
        return Ensured(new, THERE, differences=tuple(found), updated=bool(found))

    def _made(
        self,
        key: Key,
        wanted: Mapping[str, Any] | None,
        make: Make | None,
        gone: str | None,
        *,
        recreate: bool,
    ) -> Ensured:
        """Make the agent, or wait for whoever is making it. `gone` is the one that isn't there."""
        own: str | None = None  # made by this call, and not linked yet
        deadline = time.monotonic() + WAIT_SECONDS
        asked, poll = 0.0, FIRST_POLL
        while True:
            row = self.store.find(key)
            if row is not None and row.link is not None and row.agent != gone:
                if own not in (None, row.agent):
                    self._letta().delete(str(own))  # somebody took over, and was quicker
                return self._kept(row.link, wanted, update=False)
            if row is None or row.lease is None or row.lease_seconds > LEASE_SECONDS:
                leased = Row(key, row.link if row else None, uuid.uuid4().hex)
                if not self.store.replace(key, row, leased, None):
                    continue
                link, outcome = self._under_lease(leased, wanted, make, own, recreate=recreate)
                own = link.letta_agent_id if outcome == CREATED else own
                event = self._event(link, outcome, row)
                if self._linked(leased, link, event):
                    return Ensured(link, outcome, self._alike(key))
                continue
            if time.monotonic() > deadline:
                raise StillMaking(
                    f"somebody else has been making the agent of {key} for {row.lease_seconds:.0f} s",
                    "ask again in a minute: what was made is found then",
                )
            # Whoever began just now needs a moment.
            asked = asked or time.monotonic() - row.lease_seconds
            if time.monotonic() > asked + ASK_SERVER_EVERY:
                asked = time.monotonic()
                if found := self._tagged(key, gone):
                    link = self._new(key, found, "made by somebody who did not come to linking it")
                    if self._linked(row, link, self._event(link, FOUND, row)):
                        return Ensured(link, FOUND, self._alike(key))
                    continue
            time.sleep(poll * random.uniform(0.5, 1.5))  # noqa: S311  # so that not all ask at once
            poll = min(2 * poll, LONGEST_POLL)

    def _under_lease(
        self,
        leased: Row,
        wanted: Mapping[str, Any] | None,
        make: Make | None,
        own: str | None,
        *,
        recreate: bool,
    ) -> tuple[Link, str]:
        """Find or make the agent, while nobody else does."""
        key = leased.key
        try:
            if (
                found := own
                or self._tagged(key, leased.agent)
                or self._earlier(key, recreate=recreate)
            ):
                return self._new(key, found, "made for it before"), FOUND
            server = self._letta()
            made = make(key) if make else server.create(body_of(key, wanted, server))
        except LettaOpsError as error:
            # What may still come to its end is looked for by whoever asks next, for as long as it takes.
            if not (isinstance(error, ServerUnavailable) and error.under_way):
                self._give_back(leased)
            raise
        return self._new(key, made, "made for it", wanted), CREATED

    def _linked(self, leased: Row, link: Link, event: Event) -> bool:
        try:
            return self.store.replace(link.key, leased, Row(link.key, link), event)
        except AgentClaimed:
            self._give_back(leased)
            raise

    def _give_back(self, leased: Row) -> None:
        before = None if leased.link is None else Row(leased.key, leased.link)
        self.store.replace(leased.key, leased, before, None)

    def _tagged(self, key: Key, gone: str | None) -> str | None:
        """The agent that was made for `key`, wherever its maker has come to."""
        found = [str(each["id"]) for each in self._letta().tagged(key.tag) if each["id"] != gone]
        if len(found) > 1:
            raise AgentsDuplicated(
                f"the server has {len(found)} agents that were made for {key}: {', '.join(found)}",
                "link the one that is meant (`letta-ops registry link`); `letta-ops agent show` tells"
                " them apart",
            )
        return found[0] if found else None

    def _earlier(self, key: Key, *, recreate: bool) -> str | None:
        """The agent that was linked before the link was taken away: where there was one, no second one is
        made."""
        for event in self.store.events(key.app, key.id):
            agent = event.letta_agent_id or event.before
            if agent is None:
                continue
            taken = [row.key for row in self.store.rows(agent=agent) if row.key != key]
            if taken and not recreate:
                raise AgentClaimed(
                    f"{key} had agent {agent}, which is that of {taken[0]} now",
                    "to make another one for it, say so (`--recreate`)",
                )
            if not taken and self._letta().exists(agent):
                return agent
            if not recreate:
                raise _gone(self._new(key, agent, ""))
            return None
        return None

    def _alike(self, key: Key) -> tuple[str, ...]:
        rows = self.store.rows(key.app, folded=key.folded)
        return tuple(row.key.id for row in rows if row.key != key)

    def _letta(self) -> LettaServer:
        if self.server is None:
            raise RegistryUnavailable(
                "this registry was opened without a server: it can't tell whether an agent is there",
                "name the server when the registry is opened",
            )
        return self.server

    def _new(
        self, key: Key, agent: str, reason: str, template: Mapping[str, Any] | None = None
    ) -> Link:
        now = dt.datetime.now(dt.UTC)
        return Link(key.app, key.id, agent, self.server_name, now, self._who, reason, template)

    def _event(self, link: Link, what: str, was: Row | None) -> Event:
        return Event(
            str(uuid.uuid4()),
            dt.datetime.now(dt.UTC),
            self._who,
            link.app,
            link.app_agent_id,
            what,
            link.letta_agent_id,
            was.agent if was else None,
            link.reason,
        )


def open_store(database: str, *, connections: int = 10) -> Store:
    """Raises KeyRefused for a URL that names no registry; nothing is connected yet."""
    if database.startswith(SQLITE):
        from letta_ops.registry.sqlite import SqliteStore

        return SqliteStore(Path(database.removeprefix(SQLITE)).expanduser())
    if database.startswith(("postgresql://", "postgres://")):
        from letta_ops.registry.postgres import PostgresStore

        return PostgresStore(database, connections=connections)
    scheme = database.partition("://")[0]
    raise KeyRefused(
        f"{shown(scheme, 20)} is no place for a registry",
        "give postgresql://ROLE:PASSWORD@HOST/NAME, or sqlite:///PATH",
    )


def _ensure_free(row: Row | None) -> None:
    if row is not None and row.lease is not None and row.lease_seconds <= LEASE_SECONDS:
        raise StillMaking(
            f"somebody is making the agent of {row.key}", "run this again in a minute"
        )


def _no_link(key: Key) -> NoLink:
    return NoLink(
        f"there is no link for {key}", "`ensure` makes its agent, `link` takes one that is there"
    )


def _gone(link: Link) -> AgentGone:
    return AgentGone(
        f"{link.key} had agent {link.letta_agent_id}, and the server has it no more",
        "bring it back (`letta-ops agent restore`), link another one, or make an empty one with"
        " `ensure --recreate`",
    )


def _changed(key: Key) -> AlreadyLinked:
    return AlreadyLinked(
        f"somebody else has changed the link of {key} meanwhile", "look, then run this again"
    )
