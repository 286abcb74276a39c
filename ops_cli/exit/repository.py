"""A git repository with an agent's memory: made, and read back. There need be no git."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import LettaOpsError
from ops_cli.exit.layout import make_private

if TYPE_CHECKING:
    from dulwich.objects import ObjectID, ShaFile
    from dulwich.repo import Repo

BRANCH, TAG = b"refs/heads/main", b"refs/tags/letta-v1"
WHO = b"letta-ops <letta-ops@localhost>"
MESSAGE = b"Memory as it was in Letta V1\n"
FILE = 0o100644
# The successor asks git for names, and takes quoted ones for no file.
CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = true
\tquotePath = false
"""
HELD = 16 << 20  # bytes of objects that wait for being written together


def write_repository(
    folder: Path, files: Iterable[tuple[str, bytes]], when: int, history: Path | None
) -> str:
    """Make a repository in `folder` with `files` in its work tree, committed at `when` (seconds since
    1970), and return the commit; on top of the `history` of a bare repository, where there is one.

    The commit has a tag, so that what V1 had can be found however memory goes on. All is written plainly:
    the caller sees to it that it is on the disk before anybody relies on it.
    """
    from dulwich.objects import Blob, Commit

    git = folder / ".git"
    for name in ("objects/pack", "refs"):  # with these git knows it for a repository
        make_private(git / name)
    (git / "HEAD").write_text(f"ref: {BRANCH.decode()}\n")
    (git / "config").write_text(CONFIG)
    parent, older = _taken(git, history)
    packing = _Packing(git)
    entries: dict[str, ObjectID] = {}
    for path, content in chain(files, older):
        if path in entries:
            continue  # what V1's database says is newer than what its git memory has
        blob = Blob.from_string(content)
        entries[path] = blob.id
        packing.add(blob)
        _write(folder / path, content)
    commit = Commit()
    commit.tree = packing.tree(entries)
    commit.parents = [] if parent is None else [parent]
    commit.author = commit.committer = WHO
    commit.author_time = commit.commit_time = when
    commit.author_timezone = commit.commit_timezone = 0
    commit.message = MESSAGE
    packing.add(commit)
    packing.flush()
    _write_index(git / "index", folder, entries)
    lines = [b"%s %s\n" % (commit.id, name) for name in (BRANCH, TAG)]
    (git / "packed-refs").write_bytes(b"# pack-refs with: sorted\n" + b"".join(lines))
    return commit.id.decode()


class _Packing:
    """Objects go into packs: a file each would be a hundred thousand of them."""

    def __init__(self, git: Path) -> None:
        self._git = git
        self._held: dict[bytes, ShaFile] = {}
        self._size = 0

    def add(self, object_: ShaFile) -> None:
        self._held[object_.id] = object_
        self._size += object_.raw_length()
        if self._size > HELD:
            self.flush()

    def tree(self, entries: Mapping[str, ObjectID]) -> ObjectID:
        from dulwich.index import commit_tree
        from dulwich.object_store import MemoryObjectStore

        trees = MemoryObjectStore()
        blobs = [(os.fsencode(path), blob, FILE) for path, blob in entries.items()]
        top = commit_tree(trees, blobs)
        for identifier in trees:
            self.add(trees[identifier])
        return top

    def flush(self) -> None:
        from dulwich.object_format import DEFAULT_OBJECT_FORMAT
        from dulwich.pack import write_pack_index, write_pack_objects

        if not self._held:
            return
        draft = self._git / "objects/pack/draft"
        with draft.open("wb") as pack:
            found, digest = write_pack_objects(
                pack, list(self._held.values()), DEFAULT_OBJECT_FORMAT, deltify=False
            )
        name = draft.with_name(f"pack-{digest.hex()}")
        with name.with_suffix(".idx").open("wb") as index:
            places = sorted((key, offset, crc) for key, (offset, crc) in found.items())
            write_pack_index(index, places, digest)
        draft.rename(name.with_suffix(".pack"))
        self._held, self._size = {}, 0


def _taken(git: Path, history: Path | None) -> tuple[ObjectID | None, Iterable[tuple[str, bytes]]]:
    """Take over the objects of a bare repository; return the commit that its HEAD is, and its files."""
    from dulwich.errors import NotGitRepository
    from dulwich.repo import Repo

    if history is None:
        return None, ()
    try:
        with Repo(str(history), bare=True) as bare:
            head = bare.head()
            files = list(_tree_files(bare, head))
    except (KeyError, NotGitRepository):
        return None, ()  # V1 made one, and never wrote to it
    shutil.copytree(history / "objects", git / "objects", dirs_exist_ok=True)
    return head, files


def _tree_files(repo: Repo, commit: ObjectID) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a commit, but for what is none, or would be git's own in a work tree."""
    from dulwich.index import validate_path
    from dulwich.object_store import iter_tree_contents
    from dulwich.objects import Blob, Commit

    found = repo[commit]
    if not isinstance(found, Commit):
        return
    for entry in iter_tree_contents(repo.object_store, found.tree):
        if entry.path is None or entry.sha is None or not stat.S_ISREG(entry.mode or 0):
            continue
        blob = repo[entry.sha]
        if isinstance(blob, Blob) and validate_path(entry.path):
            yield os.fsdecode(entry.path), blob.data


def _write_index(path: Path, folder: Path, entries: Mapping[str, ObjectID]) -> None:
    from dulwich.index import index_entry_from_stat, write_index_dict
    from dulwich.pack import SHA1Writer

    found = {
        os.fsencode(name): index_entry_from_stat((folder / name).lstat(), blob)
        for name, blob in entries.items()
    }
    with path.open("wb") as file:
        writer = SHA1Writer(file)
        write_index_dict(writer, found)
        writer.write_sha()


def _write(path: Path, content: bytes) -> None:
    make_private(path.parent)
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)


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

    def lacks(self, history: Path) -> str | None:
        """What of a bare repository is not here, commits and the files of the last one; None: nothing."""
        from dulwich.errors import NotGitRepository
        from dulwich.repo import Repo

        try:
            with Repo(str(history), bare=True) as bare:
                for step in bare.get_walker():
                    if step.commit.id not in self._repo.object_store:
                        return f"the commit {step.commit.id.decode()}"
                here = set(self.paths())
                for path, _ in _tree_files(bare, bare.head()):
                    if path not in here:
                        return path
        except (KeyError, NotGitRepository):
            pass  # V1 made one, and never wrote to it
        return None

    def close(self) -> None:
        self._repo.close()
