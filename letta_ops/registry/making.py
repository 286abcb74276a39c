"""Making the agent of an id: once, whoever else is at it, and whoever was killed while he was."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from letta_ops.registry.errors import (
    AgentClaimed,
    AgentGone,
    AgentsDuplicated,
    AlreadyLinked,
    NoLink,
    ServerUnavailable,
    StillMaking,
)
from letta_ops.registry.links import Key, Link, Row
from letta_ops.registry.server import REQUEST_SECONDS, LettaServer
from letta_ops.registry.template import body_of

if TYPE_CHECKING:
    from letta_ops.registry.registry import Registry

# Whoever makes an agent may have been killed while the server goes on: so long nobody else makes one.
LEASE_SECONDS = 2 * REQUEST_SECONDS
LONG_LEASE_SECONDS = 2 * 600.0  # of an import
WAIT_SECONDS = 1.5 * LEASE_SECONDS
FIRST_POLL, LONGEST_POLL = 0.05, 1.0
ASK_SERVER_EVERY = 2.0  # seconds, for the agent of somebody who was killed before he linked it

THERE, CREATED, FOUND = "there", "created", "found"
# Makes an agent, and returns its id; while it comes in pieces it has the key's `unfinished_tag`.
Make = Callable[[Key], str]


@dataclass
class Making:
    """One call's try at it. `wanted` is a template that was filled in; `gone` the agent that was linked
    and isn't there; `own` was made by this call, and is not linked yet."""

    registry: Registry
    key: Key
    wanted: Mapping[str, Any] | None
    make: Make | None
    gone: str | None
    recreate: bool
    own: str | None = None

    def run(self) -> tuple[Link, str]:
        """The agent's link, and whether it was `created`, `found`, or is `there` by now."""
        deadline = time.monotonic() + WAIT_SECONDS
        asked, poll = 0.0, FIRST_POLL
        while True:
            row = self.registry.store.find(self.key)
            if row is not None and row.link is not None and row.agent != self.gone:
                self._give_way(row)
                return row.link, THERE
            if row is None or not row.is_leased:
                if done := self._mine(row):
                    return done
                continue
            if time.monotonic() > deadline:
                raise StillMaking(
                    f"somebody else has been making the agent of {self.key} for"
                    f" {row.lease_seconds:.0f} s",
                    "ask again in a minute: what was made is found then",
                )
            # Whoever began just now needs a moment.
            asked = asked or time.monotonic() - row.lease_seconds
            if time.monotonic() > asked + ASK_SERVER_EVERY:
                asked = time.monotonic()
                if done := self._left_behind(row):
                    return done
            time.sleep(poll * random.uniform(0.5, 1.5))  # noqa: S311  # so that not all ask at once
            poll = min(2 * poll, LONGEST_POLL)

    def found(self) -> str | None:
        """The agent that is there already, made for the key or linked to it once."""
        return self.own or self._tagged() or self._earlier()

    def _give_way(self, row: Row) -> None:
        """Somebody took over, and was quicker: what this very call has made is nobody's."""
        if self.own in (None, row.agent) or any(self.registry.store.rows(agent=self.own)):
            return
        # It is told by `reconcile`, where it stays; the link is what was asked for.
        with suppress(LettaOpsError):
            self.registry.letta().delete(str(self.own))

    def _mine(self, row: Row | None) -> tuple[Link, str] | None:
        """Make it, or find it, under a lease of ours; None where somebody else was quicker."""
        leased = self._lease(row)
        if leased is None:
            return None
        try:
            if found := self.found():
                outcome = FOUND
                link = self.registry.new_link(self.key, found, "made for it before")
            else:
                make = self._maker()
                # From here on it takes a request's time: who was slow until now may have lost it.
                renewed = self._lease(leased)
                if renewed is None:
                    return None
                leased, outcome = renewed, CREATED
                self.own = make()
                link = self.registry.new_link(self.key, self.own, "made for it", self.wanted)
        except LettaOpsError as error:
            # What may still come to its end is looked for by whoever asks next, for as long as it takes.
            if not (isinstance(error, ServerUnavailable) and error.under_way):
                self._give_back(leased)
            raise
        return (link, outcome) if self._linked(leased, link, outcome) else None

    def _lease(self, row: Row | None) -> Row | None:
        seconds = LEASE_SECONDS if self.make is None else LONG_LEASE_SECONDS
        leased = Row(self.key, row.link if row else None, f"{seconds}:{uuid.uuid4().hex}")
        return leased if self.registry.store.replace(self.key, row, leased, None) else None

    def _maker(self) -> Callable[[], str]:
        """What makes the agent; whatever it has to know of the server is asked before."""
        server = self.registry.letta()
        if self.make is None:
            return partial(server.create, body_of(self.key, self.wanted, server))
        return partial(self._made_whole, self.make, server)

    def _made_whole(self, make: Make, server: LettaServer) -> str:
        made = make(self.key)
        server.mark(made, self.key)
        return made

    def _left_behind(self, row: Row) -> tuple[Link, str] | None:
        """What somebody made who was killed before he linked it."""
        found = self._tagged()
        if found is None:
            return None
        reason = "made by somebody who did not come to linking it"
        link = self.registry.new_link(self.key, found, reason)
        return (link, FOUND) if self._linked(row, link, FOUND) else None

    def _linked(self, leased: Row, link: Link, outcome: str) -> bool:
        event = self.registry.event(link, outcome, leased)
        try:
            return self.registry.store.replace(self.key, leased, Row(self.key, link), event)
        except AgentClaimed:
            self._give_back(leased)
            raise

    def _give_back(self, leased: Row) -> None:
        before = None if leased.link is None else Row(leased.key, leased.link)
        self.registry.store.replace(leased.key, leased, before, None)

    def _tagged(self) -> str | None:
        """The agent that was made for the key, however far its maker has come."""
        agents = self.registry.letta().tagged(self.key.tag)
        store = self.registry.store
        found = [
            str(each["id"])
            for each in agents
            if each["id"] != self.gone
            and all(row.key == self.key for row in store.rows(agent=str(each["id"])))
        ]
        if len(found) > 1:
            raise AgentsDuplicated(
                f"the server has {len(found)} agents that were made for {self.key}:"
                f" {', '.join(found)}",
                "link the one that is meant (`letta-ops registry link`); `letta-ops agent show` tells"
                " them apart",
            )
        if not found and (pieces := self.registry.letta().tagged(self.key.unfinished_tag)):
            raise AgentsDuplicated(
                f"an import for {self.key} was broken off: {pieces[0]['id']} may be half of an agent",
                "delete it (`letta-ops agent delete`), or link it if it is whole; then run this again",
            )
        return found[0] if found else None

    def _earlier(self) -> str | None:
        """The agent that was linked before the link was taken away: where there was one, no second one is
        made."""
        store = self.registry.store
        events = store.events(self.key.app, self.key.id)
        agent = next(filter(None, (each.letta_agent_id or each.before for each in events)), None)
        if agent is None:
            return None
        # Whose it became since, also where that link is gone, too.
        later = next(store.events(agent=agent), None)
        taken = [row.key for row in store.rows(agent=agent) if row.key != self.key]
        if later is not None and (later.app, later.app_agent_id) != (self.key.app, self.key.id):
            taken.append(Key(later.app, later.app_agent_id))
        if taken and not self.recreate:
            raise AgentClaimed(
                f"{self.key} had agent {agent}, which became that of {taken[0]}",
                "to make another one for it, say so (`--recreate`)",
            )
        if not taken and self.registry.letta().exists(agent):
            return agent
        if not self.recreate:
            raise gone(self.registry.new_link(self.key, agent, ""))
        return None


def ensure_free(row: Row | None) -> None:
    if row is not None and row.is_leased:
        raise StillMaking(
            f"somebody is making the agent of {row.key}", "run this again in a minute"
        )


def no_link(key: Key) -> NoLink:
    return NoLink(
        f"there is no link for {key}", "`ensure` makes its agent, `link` takes one that is there"
    )


def gone(link: Link) -> AgentGone:
    return AgentGone(
        f"{link.key} had agent {link.letta_agent_id}, and the server has it no more",
        "bring it back (`letta-ops agent restore`), link another one, or make an empty one with"
        " `ensure --recreate`",
    )


def changed(key: Key) -> AlreadyLinked:
    return AlreadyLinked(
        f"somebody else has changed the link of {key} meanwhile", "look, then run this again"
    )
