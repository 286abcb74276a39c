"""Git-backed memory: read as a tar, written beside what is there, swapped in, and back.

It lies outside of Postgres, in the home of the server. The work there is done by a script
(`memory_inside`), on target local as the account that owns it, on target docker in a container.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from backups.manifest import Memory
from backups.sources.memory_tar import Contents, TarDamaged, TarReader, TarWriter
from backups.stores.store import Source
from backups.streams import ChunkSource, joined
from infra.errors import LettaOpsError
from infra.process import Report
from infra.stack.deployment import Deployment
from infra.targets import host
from infra.targets.target import Home

CODE = "memory-files"
MODULES = ("files", "git", "refs", "objects", "read", "swap", "job")
INSIDE = "backups.sources.memory_inside"


class MemoryTar:
    """The pieces of an uncompressed tar; it can be read once.

    The iteration ends well only when everything was there: a script that fails half-way raises.
    """

    def __init__(self, source: AbstractContextManager[BinaryIO], report: Report) -> None:
        self._source, self._report = source, report
        self._contents: Contents | None = None
        self._pieces = self._read()

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def close(self) -> None:
        """End the script, if it still runs."""
        self._pieces.close()

    def _read(self) -> Generator[bytes, None, None]:
        damage = None
        with self._source as source:
            reader = TarReader(source.read)
            try:
                yield from joined(piece.raw for piece in reader.pieces())
            except TarDamaged as error:
                damage = error  # why, the script says when it has ended
        if damage is not None:
            raise _damaged(damage)
        self._contents = reader.contents
        for note in reader.contents.notes if reader.contents else ():
            self._report(f"memory files: {note}")

    def summary(self) -> Memory:
        """What the tar holds; known when it was read to its end."""
        if self._contents is None:
            raise LettaOpsError(CODE, "the tar of memory was not read to its end", "read it whole")
        return _memory(self._contents)


def reachable(deployment: Deployment) -> bool:
    """Whether git memory can be reached from here; where we didn't provision it can't."""
    return _home(deployment) is not None


@contextmanager
def read_memory(
    deployment: Deployment, report: Report = lambda _: None, agents: Sequence[str] = ()
) -> Iterator[MemoryTar]:
    """Yield the tar of all git memory, or of these agents (ids), consistent while the server writes.

    Where it can't be reached the tar is empty, and `report` says so. Raises LettaOpsError
    (`memory-files`, `data-missing`, and those of the engine), also while the tar is iterated.
    """
    home = _home(deployment)
    if home is None:
        report(
            "memory files: git-backed memory can't be reached from here, and is not in this backup"
        )
    tar = MemoryTar(_nothing() if home is None else home.output("read", *agents), report)
    try:
        yield tar
    finally:
        tar.close()


def summarise(stream: Source) -> Memory:
    """Return what a tar of memory holds; nothing may be behind its end.

    Raises LettaOpsError (`memory-damaged`) for anything that `read_memory` would not have given.
    """
    reader = TarReader(stream.read)
    try:
        for _ in reader.pieces():
            pass
        reader.ensure_end()
    except TarDamaged as error:
        raise _damaged(error) from None
    assert reader.contents is not None  # noqa: S101  # the pieces have ended
    return _memory(reader.contents)


class MemoryPlace:
    """Where a deployment keeps git-backed memory. Its server must not run while it is swapped.

    Every method raises LettaOpsError: `memory-files` with the script's words, and those of the
    engine. All can be repeated.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    @classmethod
    def of(cls, deployment: Deployment) -> MemoryPlace:
        """That of a deployment. Raises LettaOpsError (`memory-unreachable`)."""
        home = _home(deployment)
        if home is None:
            raise LettaOpsError(
                "memory-unreachable",
                f"git-backed memory of {deployment.called} can't be reached from here",
                "restore it by hand: it is a tar for the folder .letta in the server's home",
            )
        return cls(home)

    def write(self, chunks: Iterable[bytes]) -> Memory:
        """Write a tar beside what is live, strictly checked, and return what was in it.

        An interrupted swap is undone first. Raises also `memory-damaged`: then it must not be swapped.
        """
        stream = ChunkSource(chunks)
        reader = TarReader(stream.read)

        def checked() -> Iterator[bytes]:
            # Here as well as there: a tar that was cut would leave the script waiting for more.
            yield from joined(piece.raw for piece in reader.pieces())
            reader.ensure_end()

        try:
            self._run("write", chunks=checked())
        except TarDamaged as error:
            raise _damaged(error) from None
        assert reader.contents is not None  # noqa: S101  # the pieces have ended
        return _memory(reader.contents)

    def add(self, chunks: Iterable[bytes]) -> bool:
        """Put the tar of an agent's memory among the live ones, while the server serves; return whether
        another lay there, which is set aside."""
        return bool(self._run("add", chunks=chunks))

    def remove(self, agents: Sequence[str]) -> list[str]:
        """Remove the memory of agents, and what was set aside of it; return of which there was some."""
        return [str(each) for each in self._run("remove", *agents)]

    def swap(self) -> None:
        """Put what was written in the place of what is live, which stays beside it."""
        self._run("swap")

    def undo(self) -> None:
        """Take the last swap back, or the half of it that was done; what was written waits again.

        Nothing happens when something that was written hasn't been swapped in.
        """
        self._run("undo")

    def forget_others(self) -> None:
        """Remove all but what is live and its predecessor, which `undo` brings back then."""
        self._run("forget")

    def drop_previous(self) -> None:
        """Remove what was live before the last swap."""
        self._run("drop")

    def has_previous(self) -> bool:
        return bool(self._run("state")["before"])

    def fsck(self, *, restoring: bool = False) -> list[str] | None:
        """What `git fsck` finds wrong in what is live, or was written and waits; None without git."""
        found = self._run("fsck", _which(restoring))
        return None if found is None else [str(problem) for problem in found]

    def digest(self, *, restoring: bool = False) -> Memory:
        """What is live, or was written and waits, by the same rules as `read_memory`."""
        found = self._run("digest", _which(restoring))
        return Memory(int(found["repositories"]), int(found["files"]), str(found["digest"]))

    def _run(self, *arguments: str, chunks: Iterable[bytes] = ()) -> Any:
        said = self._home.run(*arguments, chunks=chunks)
        try:
            return json.loads(said)
        except ValueError:
            raise LettaOpsError(
                CODE, f"the script in {self._home.place} said nothing", "run the same command again"
            ) from None


def program() -> str:
    """The script as one text: its modules, each under its own name."""
    here = Path(__file__).parent
    texts = {"backups.sources.memory_tar": (here / "memory_tar.py").read_text()}
    for name in MODULES:
        texts[f"{INSIDE}.{name}"] = (here / "memory_inside" / f"{name}.py").read_text()
    return (
        "import sys, types\n"
        f"for name, text in {texts!r}.items():\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    exec(compile(text, name, 'exec', dont_inherit=True), sys.modules[name].__dict__)\n"
        f"sys.modules['{INSIDE}.job'].main(sys.argv[1:])\n"
    )


def _home(deployment: Deployment) -> Home | None:
    return host(deployment).home("memory", program(), CODE)


@contextmanager
def _nothing() -> Iterator[BinaryIO]:
    import io

    sink = io.BytesIO()
    TarWriter(sink.write).end()
    sink.seek(0)
    yield sink


def _which(restoring: bool) -> str:
    return "restoring" if restoring else "live"


def _memory(contents: Contents) -> Memory:
    return Memory(contents.repositories, contents.files, contents.digest)


def _damaged(error: TarDamaged) -> LettaOpsError:
    return LettaOpsError(
        "memory-damaged",
        f"this is no whole tar of git-backed memory: {error}",
        "use another backup (`letta-ops backup list`)",
    )
