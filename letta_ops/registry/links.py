"""What the registry holds: a link of an application's id to an agent, and what became of it."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import unicodedata
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from letta_ops.registry.errors import KeyRefused

LONGEST, LONGEST_APP = 512, 64  # characters
MOST_BYTES, MOST_BYTES_APP = 2048, 256  # of UTF-8: an entry of an index has room for 2,700
TAG = "letta-ops-link:"
UNFINISHED = "letta-ops-making:"  # while an agent comes in pieces
MOVED_OUT = "agent-local-"  # begins the ids that agents have at the successor (`letta-ops exit`)
AGENT_ID = re.compile(r"agent-(local-)?[0-9a-fA-F-]{36}")
UNLINKED = "unlinked"  # what became of a key, in the history
OF_KEY = "letta_ops_link"  # in the metadata of an agent: for which id it was made
REFUSED = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, order=True)
class Key:
    """An application's name, and the id that it has for one of its agents; compared exactly as given."""

    app: str
    id: str

    @classmethod
    def of(cls, app: str, app_agent_id: str) -> Key:
        """Raises KeyRefused for what can't be kept exactly so."""
        _check("the application's name", app, LONGEST_APP, MOST_BYTES_APP)
        _check("the id", app_agent_id, LONGEST, MOST_BYTES)
        return cls(app, app_agent_id)

    def __str__(self) -> str:
        return f"{shown(self.id)} of {shown(self.app)}"

    @property
    def tag(self) -> str:
        """What an agent that was made for this key is tagged with: found again, whatever the id holds."""
        return TAG + hashlib.sha256(f"{self.app}\0{self.id}".encode()).hexdigest()

    @property
    def unfinished_tag(self) -> str:
        return UNFINISHED + self.tag.removeprefix(TAG)

    @property
    def folded(self) -> str:
        """The same for ids that look the same: those that differ in case or in Unicode form only."""
        plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", self.id).casefold())
        return hashlib.sha256(plain.encode()).hexdigest()

    @property
    def metadata(self) -> dict[str, Any]:
        """What an agent's metadata has of it."""
        return {OF_KEY: {"app": self.app, "app_agent_id": self.id}}

    @property
    def agent_name(self) -> str:
        """`app_agent_` and the id, as far as the server takes it: letters, digits, blanks, - _ '."""
        return re.sub(r"[^\w '\-]", "-", f"app_agent_{self.id}")[:120].rstrip()


@dataclass(frozen=True)
class Link:
    """Whose agent is which. `server` is the one on which it is: a deployment's id, or a URL.

    `template` is what of one was applied to it, None where none was. `there`: the agent exists, as the
    database itself says; None where it can't tell.
    """

    app: str
    app_agent_id: str
    letta_agent_id: str
    server: str
    linked_at: dt.datetime
    linked_by: str
    reason: str
    template: Mapping[str, Any] | None = None
    there: bool | None = None

    def __post_init__(self) -> None:
        if self.moved_out:  # no server of V1 knows of it
            object.__setattr__(self, "there", True)

    @property
    def key(self) -> Key:
        return Key(self.app, self.app_agent_id)

    @property
    def moved_out(self) -> bool:
        """Whether the agent is the successor's by now."""
        return self.letta_agent_id.startswith(MOVED_OUT)

    def as_json(self) -> dict[str, Any]:
        found = {**asdict(self), "linked_at": self.linked_at.astimezone(dt.UTC).isoformat()}
        del found["template"]
        return found


@dataclass(frozen=True)
class Row:
    """What is kept of a key: its link, and who is making an agent for it at the moment.

    `lease` is the maker's token, and `lease_seconds` how long ago it began, by the store's clock.
    """

    key: Key
    link: Link | None = None
    lease: str | None = None
    lease_seconds: float = 0.0

    @property
    def is_leased(self) -> bool:
        """Whether whoever began may still be at it: a lease begins with its length in seconds."""
        if self.lease is None:
            return False
        length, _, _ = self.lease.partition(":")
        return self.lease_seconds <= float(length)

    @property
    def agent(self) -> str | None:
        return None if self.link is None else self.link.letta_agent_id


@dataclass(frozen=True)
class Event:
    """One thing that became of a key: `what` is linked, created, found, moved, unlinked or restored;
    or `reconciled`, of an application, with an empty id. `before` is the agent that it had."""

    id: str  # a UUID
    at: dt.datetime
    who: str
    app: str
    app_agent_id: str
    what: str
    letta_agent_id: str | None
    before: str | None
    reason: str

    @classmethod
    def now(
        cls, who: str, key: Key, what: str, agent: str | None, before: str | None, reason: str
    ) -> Event:
        at = dt.datetime.now(dt.UTC)
        return cls(str(uuid.uuid4()), at, who, key.app, key.id, what, agent, before, reason)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "at": self.at.astimezone(dt.UTC).isoformat()}


def check_agent_id(text: str) -> str:
    """Return the id of an agent as Letta makes them. Raises KeyRefused."""
    if not AGENT_ID.fullmatch(text):
        raise KeyRefused(f"{shown(text)} is no agent's id", "`letta-ops agent list` has them")
    return text


def shown(text: str, most: int = 60) -> str:
    """`text` in quotes for a message: what can't be seen is escaped, what is long is cut."""
    cut = text if len(text) <= most else text[:most] + "…"
    return "'" + "".join(each if each.isprintable() else ascii(each)[1:-1] for each in cut) + "'"


def _check(what: str, text: str, longest: int, most_bytes: int) -> None:
    if not text:
        raise KeyRefused(f"{what} is empty", "give one")
    if found := REFUSED.search(text):
        name = "NUL" if found[0] == "\0" else f"the lone surrogate U+{ord(found[0]):04X}"
        raise KeyRefused(
            f"{what} holds {name}, which no Postgres keeps", "leave it out, or encode it"
        )
    if len(text) > longest or len(text.encode()) > most_bytes:
        raise KeyRefused(
            f"{what} has {len(text)} characters ({len(text.encode())} bytes): {shown(text, 30)}",
            f"the longest has {longest} characters and {most_bytes} bytes; hash longer ones",
        )
