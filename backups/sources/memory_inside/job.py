"""One job, where the memory lies: `read write swap undo forget drop state fsck digest add remove`.

    python -I -c PROGRAM JOB HOME [live|restoring]
    python -I -c PROGRAM read|remove HOME [AGENT...]

`read` writes a tar to stdout; all others print one JSON document. Exit code 0: done, and all of it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from backups.sources.memory_inside.files import is_folder, is_repository, names_in
from backups.sources.memory_inside.git import has_git, problems
from backups.sources.memory_inside.read import Refused, write_memory
from backups.sources.memory_inside.swap import BEFORE, LIVE, RESTORING, Place
from backups.sources.memory_tar import TarDamaged, TarWriter

OUT_BUFFER = 1 << 20


def main(arguments: list[str]) -> None:
    os.umask(0o077)
    _allow_many_files()
    job, home, *which = arguments
    try:
        place = Place(home)
        if job == "read":
            _read(place, which)
        elif job == "remove":
            print(json.dumps(place.remove(which)))
        else:
            answer = _run(job, place, which[0] if which else "live")
            print(json.dumps(answer))
    except (Refused, TarDamaged, OSError, EOFError, RecursionError) as error:
        sys.exit(f"{job} of git memory: {error or type(error).__name__}")


def _read(place: Place, agents: list[str]) -> None:
    place.ensure_settled()
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb", OUT_BUFFER) as sink:
        writer = TarWriter(sink.write)
        write_memory(writer, place.path(LIVE), {os.fsencode(each) for each in agents})
        writer.end()


def _run(job: str, place: Place, which: str) -> Any:
    jobs: dict[str, Callable[[], Any]] = {
        "write": lambda: _write(place),
        "add": lambda: place.add(_from_stdin),
        "swap": place.swap,
        "undo": place.undo,
        "forget": place.forget,
        "drop": place.drop,
        "state": lambda: {"before": place.has(BEFORE), "half_way": place.is_half_way},
        "fsck": lambda: _fsck(_chosen(place, which)),
        "digest": lambda: _digest(_chosen(place, which)),
    }
    return jobs[job]()


def _chosen(place: Place, which: str) -> bytes:
    if which == "live":
        place.ensure_settled()
        return place.path(LIVE)
    if not place.has(RESTORING):
        raise Refused("nothing was written that waits to be swapped in")
    return place.path(RESTORING)


def _write(place: Place) -> Any:
    contents = place.write(_from_stdin).contents
    return None if contents is None else contents._asdict()


def _from_stdin(size: int) -> bytes:
    return os.read(sys.stdin.fileno(), size)


def _digest(folder: bytes) -> Any:
    writer = TarWriter(lambda _: None)
    write_memory(writer, folder)
    return writer.end()._asdict()


def _fsck(folder: bytes) -> list[str] | None:
    if not has_git():
        return None
    found = []
    for repository in _repositories(folder):
        name = repository[len(folder) + 1 :].decode(errors="replace")
        found += [f"{name}: {problem}" for problem in problems(repository)]
    return found


def _repositories(folder: bytes) -> Iterator[bytes]:
    if is_repository(folder):
        yield folder
        return
    for name in names_in(folder):
        if is_folder(folder + b"/" + name):
            yield from _repositories(folder + b"/" + name)


def _allow_many_files() -> None:
    """All packs of a repository are open at once."""
    with suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
