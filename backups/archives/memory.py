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
from backups.sources.memory_tar import ROOT, Contents, TarDamaged, TarReader, TarWriter
from infra.errors import LettaOpsError

ABOVE = (ROOT, b"repository")
DEPTH = len(ABOVE) + 2  # of an agent's folder
NAMES = (b"organization", b"agent")


@dataclass(frozen=True)
class AgentMemory:
    """`tar` is a temporary file: it is gone when it is closed."""

    tar: IO[bytes]
    contents: Contents


@dataclass
class Memories:
    """Git memory of agents by their ids, until `close`."""

    of: dict[str, AgentMemory] = field(default_factory=dict)

    def keep(self, agents: Collection[str]) -> None:
        for other in [each for each in self.of if each not in agents]:
            self.of.pop(other).tar.close()

    def rename(self, new: Mapping[str, str]) -> None:
        self.of = {new.get(agent, agent): memory for agent, memory in self.of.items()}

    def digests(self) -> dict[str, str]:
        return {agent: memory.contents.digest for agent, memory in sorted(self.of.items())}

    def put(self, place: MemoryPlace, organizations: Mapping[str, str]) -> list[str]:
        """Put each where a server looks for it; return of which agents something else lay there: that
        is set aside. Raises LettaOpsError like `MemoryPlace`."""
        return [
            agent
            for agent in sorted(self.of)
            if place.add(self._written({agent: (organizations[agent].encode(), agent.encode())}))
        ]

    def as_tar(self) -> Iterator[bytes]:
        """All of them as one tar, which `split` takes apart again."""
        return self._written({agent: (NAMES[0], agent.encode()) for agent in sorted(self.of)})

    def close(self) -> None:
        self.keep(())

    def _written(self, names: Mapping[str, tuple[bytes, bytes]]) -> Iterator[bytes]:
        held: list[bytes] = []
        writer = TarWriter(held.append)
        above: tuple[bytes, ...] = ()
        for agent, name in names.items():
            memory = self.of[agent]
            memory.tar.seek(0)
            for piece in TarReader(memory.tar.read).pieces():
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
    writers: dict[str, tuple[IO[bytes], TarWriter]] = {}
    here: TarWriter | None = None
    reader = TarReader(source)
    try:
        for piece in reader.pieces():
            if piece.member is not None:
                steps = tuple(piece.member.path.split(b"/"))
                here = None
                if len(steps) < DEPTH or steps[:2] != ABOVE:
                    continue
                agent = steps[DEPTH - 1].decode(errors="replace")
                if agent not in writers and wanted(agent):
                    writers[agent] = _begun()
                if agent in writers:
                    here = writers[agent][1]
                    path = b"/".join((*ABOVE, *NAMES, *steps[DEPTH:]))
                    here.begin(path, piece.member.size)
            elif here is not None and piece.data:
                here.data(piece.data)
    except BaseException as error:
        for file, _ in writers.values():
            file.close()
        if isinstance(error, TarDamaged):
            raise LettaOpsError(
                "memory-damaged",
                f"this is no whole tar of git memory: {error}",
                "use another copy of it; nothing was changed",
            ) from None
        raise
    return Memories(
        {agent: AgentMemory(file, each.end()) for agent, (file, each) in writers.items()}
    )


def _begun() -> tuple[IO[bytes], TarWriter]:
    file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by who holds it
    writer = TarWriter(file.write)
    for depth in range(1, DEPTH):
        writer.begin(b"/".join((*ABOVE, *NAMES)[:depth]), None)
    return file, writer
