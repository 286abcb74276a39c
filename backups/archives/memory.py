"""Git memory of single agents: taken out of the tar of all memory, and put beside that of others.

In that tar an agent's lies in `memfs/repository/ORGANIZATION/AGENT`. Here each is a tar of its own, in
which both are always called the same: what two agents remember is the same where the digests are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from backups.sources.memory_files import MemoryPlace
from backups.sources.memory_tar import ROOT, Contents, Member, TarDamaged, TarReader, TarWriter
from infra.errors import LettaOpsError

ABOVE = (ROOT, b"repository")
DEPTH = len(ABOVE) + 2  # of an agent's folder
NAMES = (b"organization", b"agent")


@dataclass(frozen=True)
class AgentMemory:
    """`start`: where its tar begins in the temporary file of all."""

    start: int
    contents: Contents


@dataclass
class Memories:
    """Git memory of agents by their ids, until `close`: `file` is a temporary one, gone then."""

    file: IO[bytes] | None = None
    of: dict[str, AgentMemory] = field(default_factory=dict)

    def keep(self, agents: Collection[str]) -> None:
        self.of = {agent: memory for agent, memory in self.of.items() if agent in agents}

    def rename(self, new: Mapping[str, str]) -> None:
        self.of = {new.get(agent, agent): memory for agent, memory in self.of.items()}

    def digests(self) -> dict[str, str]:
        return {agent: memory.contents.digest for agent, memory in sorted(self.of.items())}

    def put(self, place: MemoryPlace, organizations: Mapping[str, str]) -> list[str]:
        """Put that of the agents in `organizations` where a server looks for it; return of which of them
        something else lay there: that is set aside. Raises LettaOpsError like `MemoryPlace`."""
        return [
            agent
            for agent in sorted(self.of)
            if agent in organizations
            and place.add(self._written({agent: (organizations[agent].encode(), agent.encode())}))
        ]

    def as_tar(self) -> Iterator[bytes]:
        """All of them as one tar, which `split` takes apart again."""
        return self._written({agent: (NAMES[0], agent.encode()) for agent in sorted(self.of)})

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def _written(self, names: Mapping[str, tuple[bytes, bytes]]) -> Iterator[bytes]:
        held: list[bytes] = []
        writer = TarWriter(held.append)
        above: tuple[bytes, ...] = ()
        for agent, name in names.items():
            assert self.file is not None  # noqa: S101  # there is one where there is memory
            self.file.seek(self.of[agent].start)
            for piece in TarReader(self.file.read).pieces():
                if piece.member is not None:
                    steps = tuple(piece.member.path.split(b"/"))
                    steps = (*ABOVE, *name)[: len(steps)] + steps[DEPTH:]
                    # The folders above one agent's are there already when the next comes.
                    if steps != above[: len(steps)]:
                        writer.begin(b"/".join(steps), piece.member.size)
                elif piece.data:
                    writer.data(piece.data)
                yield from held
                held.clear()
            above = (*ABOVE, *name)
        writer.end()
        yield from held


def split(source: Callable[[int], bytes], wanted: Callable[[str], bool]) -> Memories:
    """Read a tar of memory to its end, and keep what belongs to the agents `wanted`, by their ids.

    Raises LettaOpsError (`memory-damaged`).
    """
    splitting = _Splitting(wanted)
    try:
        for piece in TarReader(source).pieces():
            if piece.member is not None:
                splitting.member(piece.member)
            elif piece.data:
                splitting.data(piece.data)
        splitting.end()
    except BaseException as error:
        splitting.found.close()
        if isinstance(error, TarDamaged):
            raise LettaOpsError(
                "memory-damaged",
                f"this is no whole tar of git memory: {error}",
                "use another copy of it; nothing was changed",
            ) from None
        raise
    return splitting.found


class _Splitting:
    """Where a tar that is read has come to: `_here` is the agent whose members are kept now."""

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self._wanted = wanted
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by who holds what was found
        self.found = Memories(self._file)
        self._here: str | None = None
        self._writer, self._start = TarWriter(self._file.write), 0

    def member(self, member: Member) -> None:
        steps = tuple(member.path.split(b"/"))
        if len(steps) <= DEPTH or steps[:2] != ABOVE:
            self._turn_to(steps)
        if self._here is not None:
            self._writer.begin(b"/".join((*ABOVE, *NAMES, *steps[DEPTH:])), member.size)

    def data(self, data: bytes) -> None:
        if self._here is not None:
            self._writer.data(data)

    def end(self) -> None:
        if self._here is not None:
            self.found.of[self._here] = AgentMemory(self._start, self._writer.end())
            self._here = None

    def _turn_to(self, steps: tuple[bytes, ...]) -> None:
        """What comes next is not of the agent that came before."""
        self.end()
        agent = steps[-1].decode(errors="replace")
        if len(steps) != DEPTH or steps[:2] != ABOVE or not self._wanted(agent):
            return
        if agent in self.found.of:
            raise TarDamaged(f"{agent} has memory in two organizations")
        self._here, self._start = agent, self._file.tell()
        self._writer = TarWriter(self._file.write)
        for depth in range(1, DEPTH):
            self._writer.begin(b"/".join((*ABOVE, *NAMES)[:depth]), None)
