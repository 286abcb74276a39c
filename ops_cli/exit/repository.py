"""A git repository with an agent's memory: made, and read back. There need be no git."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import LettaOpsError
from ops_cli.exit.layout import make_private

if TYPE_CHECKING:
    from dulwich.objects import ObjectID
    from dulwich.repo import Repo

BRANCH, TAG = b"refs/heads/main", b"refs/tags/letta-v1"
WHO = b"letta-ops <letta-ops@localhost>"
MESSAGE = b"Memory as it was in Letta V1\n"
FILE = 0o100644
HELD = 16 << 20  # bytes of objects that wait for being written together


def write_repository(
    folder: Path, files: Iterable[tuple[str, bytes]], when: int, history: Path | None
) -> str:
    """Make a repository in `folder` with `files` in its work tree, committed at `when` (seconds since
    1970), and return the commit; on top of the `history` of a bare repository, where there is one.

    The commit has a tag, so that what V1 had can be found however memory goes on.
    """
    from dulwich.index import commit_tree
    from dulwich.objects import Blob, Commit
    from dulwich.refs import Ref
    from dulwich.repo import Repo

    make_private(folder)
    with Repo.init(str(folder), default_branch=b"main") as repo:
        parent = None if history is None else _taken(repo, history)
        blobs: list[tuple[bytes, ObjectID, int]] = []
        held: list[tuple[Blob, None]] = []
        size = 0
        for path, content in files:
            blob = Blob.from_string(content)
            blobs.append((path.encode(), blob.id, FILE))
            held.append((blob, None))
            size += len(content)
            _write(folder / path, content)
            if size > HELD:
                repo.object_store.add_objects(held)
                held, size = [], 0
        repo.object_store.add_objects(held)
        commit = Commit()
        commit.tree = commit_tree(repo.object_store, blobs)
        commit.parents = [] if parent is None else [parent]
        commit.author = commit.committer = WHO
        commit.author_time = commit.commit_time = when
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = MESSAGE
        repo.object_store.add_object(commit)
        repo.refs[Ref(BRANCH)] = repo.refs[Ref(TAG)] = commit.id
        _index(repo, folder, blobs)
        config = repo.get_config()
        # The successor asks git for names, and takes quoted ones for no file.
        config.set((b"core",), b"quotePath", b"false")
        config.write_to_path()
        return commit.id.decode()


def _taken(repo: Repo, history: Path) -> ObjectID | None:
    """Take over the objects of a bare repository; return the commit that its HEAD is."""
    from dulwich.errors import NotGitRepository
    from dulwich.repo import Repo

    try:
        with Repo(str(history), bare=True) as bare:
            head = bare.head()
    except (KeyError, NotGitRepository):
        return None
    target = Path(repo.path) / ".git" / "objects"
    shutil.copytree(history / "objects", target, dirs_exist_ok=True)
    return head


def _index(repo: Repo, folder: Path, blobs: list[tuple[bytes, ObjectID, int]]) -> None:
    from dulwich.index import index_entry_from_stat

    index = repo.open_index()
    for path, blob, _ in blobs:
        index[path] = index_entry_from_stat((folder / os.fsdecode(path)).lstat(), blob)
    index.write()


def _write(path: Path, content: bytes) -> None:
    make_private(path.parent)
    path.write_bytes(content)
    path.chmod(0o600)


class Memory:
    """The repository in `folder`, read: what V1 had, and what became of it since."""

    def __init__(self, folder: Path) -> None:
        from dulwich.errors import NotGitRepository
        from dulwich.objects import Commit
        from dulwich.refs import Ref
        from dulwich.repo import Repo

        try:
            self._repo = Repo(str(folder))
            self._commit = self._repo.refs[Ref(TAG)]
            self._head = self._repo.refs[Ref(BRANCH)]
            commit = self._repo[self._commit]
            self._tree = commit.tree if isinstance(commit, Commit) else commit.id
        except (NotGitRepository, KeyError, OSError) as error:
            raise LettaOpsError(
                "store-damaged",
                f"{folder} is no repository of memory that was exported: {error}",
                "export this agent anew with --replace",
            ) from None

    @property
    def later(self) -> bool:
        """Whether there are commits after the export."""
        return self._head != self._commit

    def paths(self) -> Iterator[str]:
        from dulwich.object_store import iter_tree_contents

        for entry in iter_tree_contents(self._repo.object_store, self._tree):
            yield os.fsdecode(entry.path)

    def read(self, path: str) -> bytes | None:
        """The file's content at the export; None where there is none. Raises LettaOpsError."""
        from dulwich.object_store import tree_lookup_path
        from dulwich.objects import Blob

        try:
            _, blob = tree_lookup_path(
                self._repo.object_store.__getitem__, self._tree, os.fsencode(path)
            )
            found = self._repo[blob]
        except KeyError:
            return None
        return found.data if isinstance(found, Blob) else None

    def has_history(self, commit: bytes) -> bool:
        from dulwich.objects import ObjectID

        return ObjectID(commit) in self._repo.object_store

    def close(self) -> None:
        self._repo.close()
