"""The port behind which every store stands: named objects, written whole or not at all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from infra.errors import LettaOpsError

if TYPE_CHECKING:
    from infra.stack.backup_settings import StoreSettings


@dataclass(frozen=True)
class Entry:
    """One object: `name` is relative to the store, with slashes; `size` in bytes; `modified` in UTC."""

    name: str
    size: int
    modified: dt.datetime


class Sink(Protocol):
    """What is being written; nobody sees it before the block that yielded it ends well."""

    def write(self, data: bytes, /) -> int: ...

    def flush(self) -> None: ...


class Source(Protocol):
    """What is being read, in pieces; b"" is the end."""

    def read(self, size: int = -1, /) -> bytes: ...


class Store(Protocol):
    """Named objects. Every method raises LettaOpsError, and never with a secret in it:

    `store-unreachable` (no connection, no answer in time, 5xx after retries), `store-denied`
    (credentials or permissions), `store-missing` (no such bucket or folder), `store-full` (no
    space or quota), `store-failed` (anything else that the store says), `object-name` (see
    `checked`).
    """

    url: str  # for people; holds no secret

    def write(self, name: str, *, exclusive: bool = False) -> AbstractContextManager[Sink]:
        """Yield a sink. The object appears, whole and synced, when the block ends without an error;
        with one, nothing appears and what was sent is removed as far as the store answers.

        With `exclusive`, raises LettaOpsError (`object-exists`) when `name` is there already, also
        when another writer was quicker.
        """
        ...

    def read(self, name: str) -> AbstractContextManager[Source]:
        """Yield the object from its beginning; a connection that breaks is taken up again.

        Raises LettaOpsError (`object-missing`) when there is none.
        """
        ...

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Yield every object whose name begins with `prefix`, in the order of names."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens when there is none.

        Raises LettaOpsError (`object-locked`) where the store's object lock holds it.
        """
        ...

    def limits(self) -> tuple[str, ...]:
        """What a store of its kind can do and this one can't, in words, as far as writing has shown."""
        ...

    def protection(self) -> str:
        """What keeps it from losing what is deleted or overwritten, in words; "" where none is known."""
        ...

    def unfinished(self, older_than: dt.datetime, *, remove: bool) -> Iterator[Entry]:
        """Yield what aborted writes have left (drafts, multipart uploads) since before `older_than`;
        with `remove`, remove each."""
        ...


def checked(name: str) -> str:
    """Return `name`, which leads out of no store, and which no store hides as a draft.

    Raises LettaOpsError (`object-name`): a name may come from a manifest that somebody altered.
    """
    steps = name.split("/")
    # isprintable: no control characters, and nothing that can't be encoded.
    if not name.isprintable() or any(step == "" or step.startswith(".") for step in steps):
        raise LettaOpsError(
            "object-name",
            f"{name!r} can't be the name of an object",
            "names have steps with a slash between them; no step is empty or begins with a dot",
        )
    return name


def open_store(settings: StoreSettings) -> Store:
    """Return the store at `settings.url`. Nothing is asked of it yet.

    Raises LettaOpsError (`configuration`) for a URL that is of no known kind.
    """
    from urllib.parse import unquote, urlsplit

    from infra.errors import ConfigurationError

    parts = urlsplit(settings.url)
    if parts.scheme == "file":
        from pathlib import Path

        from backups.stores.folder import FolderStore

        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        from backups.stores.s3 import S3Store

        return S3Store(settings)
    raise ConfigurationError(
        "store.url",
        [f"store.url: {parts.scheme or 'an empty scheme'!r} is unknown; use file:// or s3://"],
        "correct it with `letta-ops up --config store.url=...` or in the profile",
    )
