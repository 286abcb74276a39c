"""A store is written beside its place, and takes it when it is whole: renamed, or agent by agent.

What is written beside stays there when we are killed, and the next run goes on with it. An agent's own
file, by which the successor knows it, is the last of its files, in both places.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.files import held, write_private
from infra.sensitive import Sensitive
from ops_cli.exit import layout
from ops_cli.exit.reading import conversation_folders, ensure_store

BESIDE = ".{}.letta-ops-exit"
STORE, PLACING, REPLACED, LOCK = "store", "placing", "replaced", "lock"


class Stage:
    """The folder beside `destination`, in which a store is made."""

    def __init__(self, destination: Path, beside: Path) -> None:
        self.destination, self._beside = destination, beside
        self.store = beside / STORE
        self.replaced: Path | None = None
        self.secrets: dict[str, Sensitive] = {}

    def record(self, agent: str) -> dict[str, Any] | None:
        """Of what an agent was made that is at its place already, or waits beside it."""
        for store in (self.store, self.destination):
            if (store / layout.agent_file(agent)).is_file():
                try:
                    found = json.loads((store / layout.record_file(agent)).read_bytes())
                except (OSError, ValueError):
                    return {}
                return found if isinstance(found, dict) else {}
        return None

    def is_placed(self, agent: str) -> bool:
        return (self.destination / layout.agent_file(agent)).is_file()

    def clear(self, agent: str, conversations: Sequence[str | None]) -> None:
        """Remove what a killed run has begun to write of an agent."""
        (self.store / layout.agent_file(agent)).unlink(missing_ok=True)
        for folder in (
            f"{layout.MEMFS}/{agent}",
            *(layout.conversation_folder(agent, each) for each in conversations),
        ):
            if (self.store / folder).exists():
                shutil.rmtree(self.store / folder)

    def finish_placing(self) -> None:
        """Go on where a run was killed while it placed agents."""
        if (self._beside / PLACING).is_file():
            self.place()

    def place(self) -> None:
        """Let what is made take its place. What it replaces is set aside, beside the store."""
        if not (self.store / layout.AGENTS).is_dir():
            self._done()
            return
        os.sync()  # a machine that dies now must not leave names without what they are of
        if not (self._beside / PLACING).is_file() and not _has_something(self.destination):
            self.store.rename(self.destination)  # also over an empty folder
            self._done()
            return
        theirs = _conversations_by_agent(self.destination)
        ours = _conversations_by_agent(self.store)
        moving = self._moving()
        for agent in sorted(layout.agent_ids(self.store)):
            memory, own = f"{layout.MEMFS}/{agent}", layout.agent_file(agent)
            if agent != moving:
                self._note(None)
                # The agent's own file first: without it the rest is nobody's to the successor.
                old = [own, *theirs.get(agent, ()), *ours.get(agent, ()), memory]
                for name in dict.fromkeys(old):
                    if (self.destination / name).exists():
                        _rename(self.destination / name, self._beside / REPLACED / name)
            self._note(agent)  # from here on, what is at its place is new
            for name in [*ours.get(agent, ()), memory, own]:
                if (self.store / name).exists():
                    _rename(self.store / name, self.destination / name)
        self._done()

    def _add_secrets(self) -> None:
        if not self.secrets:
            return
        path = self.destination / layout.SECRETS
        there: dict[str, str] = {}
        if path.is_file():
            there = json.loads(path.read_bytes()).get("secrets") or {}
        there |= {name: value.reveal() for name, value in self.secrets.items()}
        layout.make_private(path.parent)
        write_private(path, json.dumps({"secrets": there}, indent=2) + "\n")

    def _moving(self) -> str | None:
        """The agent whose files were taking their place when a run was killed."""
        marker = self._beside / PLACING
        return (marker.read_text() or None) if marker.is_file() else None

    def _note(self, agent: str | None) -> None:
        write_private(self._beside / PLACING, agent or "")

    def _done(self) -> None:
        self._add_secrets()
        aside = self._beside / REPLACED
        if aside.exists():
            now = dt.datetime.now(dt.UTC)
            name = f"{self.destination.name}.replaced-{now:%Y%m%dT%H%M%S}Z"
            self.replaced = self.destination.with_name(name)
            aside.rename(self.replaced)
        shutil.rmtree(self._beside)


@contextmanager
def staged(destination: Path) -> Iterator[Stage]:
    """Yield the stage of a store at `destination`, which nobody else has meanwhile.

    Raises LettaOpsError: `not-a-store`, `store-newer`, `locked`.
    """
    beside = destination.with_name(BESIDE.format(destination.name))
    if _has_something(destination):
        ensure_store(destination)
    layout.make_private(beside)
    try:
        with held(beside / LOCK, "exit export"):
            stage = Stage(destination, beside)
            layout.make_private(stage.store)
            yield stage
    except LettaOpsError as error:
        if error.code != "locked":
            raise
        raise LettaOpsError(
            "locked",
            f"another export writes to {destination} right now",
            "wait until it has finished",
        ) from None


def _has_something(folder: Path) -> bool:
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise LettaOpsError(
            "not-a-store", f"{folder} is a file", "name a folder, or one that is not there yet"
        )
    return any(folder.iterdir())


def _conversations_by_agent(store: Path) -> dict[str, list[str]]:
    """The folders of conversations (as paths in the store) by the agents that they say they are of."""
    found: dict[str, list[str]] = {}
    for folder in conversation_folders(store):
        try:
            record = json.loads((folder / layout.CONVERSATION).read_bytes())
        except (OSError, ValueError):
            continue
        name = f"{layout.CONVERSATIONS}/{folder.name}"
        if isinstance(record, dict):
            found.setdefault(str(record.get("agent_id")), []).append(name)
    return found


def _rename(here: Path, there: Path) -> None:
    layout.make_private(there.parent)
    here.rename(there)
