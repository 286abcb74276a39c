"""Where an agent archive lies: in a file, or in the store, beside the backups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from backups.stores.store import Entry, Sink, Source, Store
from infra.errors import LettaOpsError
from infra.files import output

ENDING = ".agents"
NEWEST = "latest"
# No deployment's id begins like this: catalogs of backups don't take them for one.
FOLDER = "_agents"
IN_STORE = "store:"


class Place(Protocol):
    """`url` says where it is kept, for who asks whether that is this machine; as a text it is what
    commands take."""

    @property
    def url(self) -> str: ...

    def write(self) -> AbstractContextManager[Sink]:
        """Yield what becomes the archive, whole or not at all. Raises LettaOpsError."""

    def read(self) -> AbstractContextManager[Source]:
        """Yield it from its beginning. Raises LettaOpsError."""


@dataclass(frozen=True)
class InFile:
    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def url(self) -> str:
        return self.path.absolute().parent.as_uri()

    def write(self) -> AbstractContextManager[Sink]:
        return output(self.path)

    @contextmanager
    def read(self) -> Iterator[Source]:
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise LettaOpsError(
                "archive-unreadable",
                f"cannot read {self.path}: {error.strerror}",
                "name another file",
            ) from None
        with file:
            yield file


@dataclass(frozen=True)
class InStore:
    """`name` is that of the archive: the object lies in the deployment's folder of archives."""

    store: Store
    deployment: str
    name: str

    def __str__(self) -> str:
        return f"{IN_STORE}{self.name}"

    @property
    def url(self) -> str:
        return self.store.url

    def write(self) -> AbstractContextManager[Sink]:
        return self.store.write(self._object, exclusive=True)

    def read(self) -> AbstractContextManager[Source]:
        return self.store.read(self._object)

    def delete(self) -> None:
        self.store.delete(self._object)

    @property
    def _object(self) -> str:
        return f"{_folder(self.deployment)}{self.name}{ENDING}"


def archives_in(store: Store, deployment: str) -> list[tuple[InStore, Entry]]:
    """The archives that the store holds of a deployment, oldest first: names begin with the time."""
    folder = _folder(deployment)
    return [
        (InStore(store, deployment, entry.name[len(folder) : -len(ENDING)]), entry)
        for entry in store.entries(folder)
        if entry.name.endswith(ENDING)
    ]


def find_archive(store: Store, deployment: str, word: str, *, exact: bool = False) -> InStore:
    """The archive whose name is `word`; unless it must be `exact`, or begins with it, or the newest.

    Raises LettaOpsError: `no-archive`, `ambiguous-archive`, and what the store raises.
    """
    every = [place for place, _ in archives_in(store, deployment)]
    found = [each for each in every if each.name == word]
    if not found and not exact and word:
        found = [each for each in every if each.name.startswith(word)]
        found = every[-1:] if word == NEWEST else found
    if len(found) == 1:
        return found[0]
    if found:
        raise LettaOpsError(
            "ambiguous-archive",
            f"{word} is the beginning of {', '.join(each.name for each in found)}",
            "write more of the name",
        )
    raise LettaOpsError(
        "no-archive",
        f"the store holds no agent archive '{word}' of this deployment",
        "`letta-ops agent archives` lists them",
    )


def _folder(deployment: str) -> str:
    return f"{FOLDER}/{deployment}/"
