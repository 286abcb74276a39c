"""A store is written beside its place, and takes it when it is whole: renamed, or agent by agent.

What is written beside stays there when we are killed, and the next run goes on with it. An agent's own
file, by which the successor knows it, is the last of its files, in both places.
"""

from __future__ import annotations

import datetime as dt
import errno
import json
import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.errors import LettaOpsError
from infra.files import held, write_private
from ops_cli.exit import layout
from ops_cli.exit.reading import conversation_folders, ensure_store, read_record

BESIDE = ".{}.letta-ops-exit"
STORE, PLACING, REPLACED, LOCK = "store", "placing", "replaced", "lock"


class Stage:
    """The folder beside `destination`, in which a store is made."""

    def __init__(self, destination: Path, beside: Path) -> None:
        self.destination, self._beside = destination, beside
        self.store = beside / STORE
        self.replaced: Path | None = None
        self.finished = False
        self.resumed: set[str] = set()  # agents that this run has placed for one that was killed
        layout.make_private(self.store)
        self._begun = _conversations_by_agent(self.store)

    def waiting(self, agent: str) -> dict[str, Any] | None:
        """Of what an agent was made that a run before has written, and that is not at its place."""
        return read_record(self.store, agent)

    def placed(self, agent: str) -> dict[str, Any] | None:
        """The same of one that is at its place; empty, where no export of ours made it."""
        return read_record(self.destination, agent)

    def clear(self, agent: str, conversations: Sequence[str | None]) -> None:
        """Remove what a killed run has begun to write of an agent."""
        (self.store / layout.agent_file(agent)).unlink(missing_ok=True)
        for folder in (
            f"{layout.MEMFS}/{agent}",
            *self._begun.get(agent, ()),
            *(layout.conversation_folder(agent, each) for each in conversations),
        ):
            if (self.store / folder).exists():
                shutil.rmtree(self.store / folder)

    def finish_placing(self) -> None:
        """Go on where a run was killed while it placed agents."""
        if not (self._beside / PLACING).is_file():
            self._give_place_to_what_was_replaced()
            return
        agents, moving = json.loads((self._beside / PLACING).read_bytes())
        self.resumed = set(agents)
        with told_of_disk(self.destination):
            self._merge(agents, moving)
        shutil.rmtree(self.store)
        layout.make_private(self.store)

    def place(self, agents: Collection[str], *, replace: bool) -> None:
        """Let `agents`, which are written, take their places; what others a run before has begun goes.

        What they replace is set aside, beside the store. Raises LettaOpsError (`agent-exists`) where
        somebody else's conversation has the name of one of theirs, but with `replace`.
        """
        with told_of_disk(self.destination):
            self._keep_only(agents)
            if agents:
                os.sync()  # a machine that dies now must not leave names without what they are of
                if has_something(self.destination) or self._beside.parent == self.destination:
                    self._ensure_free(replace=replace)
                    self._merge(sorted(layout.agent_ids(self.store)), None)
                else:
                    self.store.rename(self.destination)  # also over an empty folder
            self.finished = True

    def set_aside(self, name: str) -> None:
        """Keep a copy of a file of the store that will be changed."""
        copy = self._beside / REPLACED / name
        layout.make_private(copy.parent)
        shutil.copy2(self.destination / name, copy)

    def is_empty(self) -> bool:
        """Whether nothing was written that the next run could go on with."""
        begun = any((self.store / each).exists() for each in layout.OWN)
        return not begun and not (self._beside / PLACING).exists()

    def end(self) -> None:
        """Give what was replaced its place, and remove all else that was needed."""
        self._give_place_to_what_was_replaced()
        if self.store.exists():
            shutil.rmtree(self.store)

    def _give_place_to_what_was_replaced(self) -> None:
        aside = self._beside / REPLACED
        if aside.exists():
            now = dt.datetime.now(dt.UTC)
            name = f"{self.destination.name}.replaced-{now:%Y%m%dT%H%M%S.%f}Z"
            aside.rename(self._beside.with_name(name))
            self.replaced = self._beside.with_name(name)

    def _keep_only(self, agents: Collection[str]) -> None:
        ours = _conversations_by_agent(self.store)
        kept = {
            *(layout.agent_file(each) for each in agents),
            *(f"{layout.MEMFS}/{each}" for each in agents),
            *(name for each in agents for name in ours.get(each, ())),
        }
        for parent in layout.OWN:
            for path in (self.store / parent).glob("*"):
                if f"{parent}/{path.name}" not in kept:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _ensure_free(self, *, replace: bool) -> None:
        theirs = _conversations_by_agent(self.destination)
        owners = {name: agent for agent, names in theirs.items() for name in names}
        for agent, names in _conversations_by_agent(self.store).items():
            others = {owners[name] for name in names if name in owners} - {agent}
            if others and not replace:
                raise LettaOpsError(
                    "agent-exists",
                    f"a conversation of {agent} is one of {', '.join(others)} in"
                    f" {self.destination}; nothing was changed",
                    "export into a new folder; --replace would set theirs aside",
                )

    def _merge(self, agents: Sequence[str], moving: str | None) -> None:
        theirs = _conversations_by_agent(self.destination)
        ours = _conversations_by_agent(self.store)
        for agent in agents:
            memory, own = f"{layout.MEMFS}/{agent}", layout.agent_file(agent)
            if not (self.store / own).exists():
                continue  # it is at its place
            if agent != moving:
                self._note(agents, None)
                # The agent's own file first: without it the rest is nobody's to the successor.
                old = [own, *theirs.get(agent, ()), *ours.get(agent, ()), memory]
                for name in dict.fromkeys(old):
                    if (self.destination / name).exists():
                        _rename(self.destination / name, self._beside / REPLACED / name)
            self._note(agents, agent)  # from here on, what is at its place is new
            for name in [*ours.get(agent, ()), memory, own]:
                if (self.store / name).exists():
                    _rename(self.store / name, self.destination / name)
        (self._beside / PLACING).unlink(missing_ok=True)

    def _note(self, agents: Sequence[str], moving: str | None) -> None:
        """Which agents are being placed, and the one whose files are taking their places."""
        write_private(self._beside / PLACING, json.dumps([agents, moving]))


@contextmanager
def staged(destination: Path) -> Iterator[Stage]:
    """Yield the stage of a store at `destination`, which nobody else has meanwhile.

    Raises LettaOpsError: `not-a-store`, `store-newer`, `locked`.
    """
    destination = destination.resolve()
    if has_something(destination):
        ensure_store(destination)
    beside = destination.with_name(BESIDE.format(destination.name))
    with told_of_disk(destination):
        layout.make_private(destination.parent)
        if destination.exists() and is_mounted(destination):
            beside = destination / BESIDE.format("")
        layout.make_private(beside)
    try:
        with held(beside / LOCK, "exit export"):
            if not (beside / LOCK).exists():  # whoever had it was just removing it
                raise _locked(destination)
            stage = Stage(destination, beside)
            try:
                yield stage
            finally:
                if stage.finished or stage.is_empty():
                    stage.end()
                    (beside / LOCK).unlink()
                    beside.rmdir()
    except LettaOpsError as error:
        if error.code != "locked":
            raise
        raise _locked(destination) from None


def is_mounted(folder: Path) -> bool:
    """Whether a folder is on another disk than where it stands: nothing can be renamed into it."""
    return folder.stat().st_dev != folder.parent.stat().st_dev


def _locked(destination: Path) -> LettaOpsError:
    return LettaOpsError(
        "locked",
        f"another export writes to {destination} right now",
        "wait until it has finished, then run this again",
    )


@contextmanager
def told_of_disk(place: Path) -> Iterator[None]:
    """What a disk refuses, as a LettaOpsError: `disk-full`, `output-refused`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LettaOpsError(
                "disk-full",
                f"there is no room left where {place} is written",
                "free some disk space, then run this again: what is written stays",
            ) from None
        raise LettaOpsError(
            "output-refused",
            f"cannot write {error.filename or place}: {error.strerror}",
            "name a folder that you may write to",
        ) from None


def has_something(folder: Path) -> bool:
    """Whether there is more in a folder than the stage of an export. Raises LettaOpsError."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise LettaOpsError(
            "not-a-store", f"{folder} is a file", "name a folder, or one that is not there yet"
        )
    return any(each.name != BESIDE.format("") for each in folder.iterdir())


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
