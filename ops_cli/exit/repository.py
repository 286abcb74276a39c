"""A git repository with an agent's memory: made, and read back. There need be no git."""

from __future__ import annotations

import os
import shutil
import stat
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from infra.errors import LettaOpsError
from ops_cli.exit.layout import make_private, new_file

if TYPE_CHECKING:
    from dulwich.objects import ObjectID, ShaFile
    from dulwich.repo import Repo

BRANCH, TAG = b"refs/heads/main", b"refs/tags/letta-v1"
WHO = b"letta-ops <letta-ops@localhost>"
MESSAGE = b"Memory as it was in Letta V1\n"
FILE, PROGRAM = 0o100644, 0o100755
OldFile = tuple[str, bytes, int]  # path, content, mode
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
    parent, older = (None, []) if history is None else _head_of(history)
    if history is not None and parent is not None:
        shutil.copytree(history / "objects", git / "objects", dirs_exist_ok=True)
    packing = _Packing(git)
    entries: dict[str, ObjectID] = {}
    modes: dict[str, int] = {}
    for path, content, mode in chain(((*each, FILE) for each in files), older):
        # What V1's database says is newer than what its git memory has.
        if path in entries or (older and _in_the_way(path, entries)):
            continue
        blob = Blob.from_string(content)
        entries[path], modes[path] = blob.id, mode
        packing.add(blob)
        with new_file(folder / path, mode & 0o700) as file:
            file.write(content)
    commit = Commit()
    commit.tree = packing.tree(entries, modes)
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

    def tree(self, entries: Mapping[str, ObjectID], modes: Mapping[str, int]) -> ObjectID:
        from dulwich.index import commit_tree
        from dulwich.object_store import MemoryObjectStore

        trees = MemoryObjectStore()
        blobs = [(os.fsencode(path), blob, modes[path]) for path, blob in entries.items()]
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


def _head_of(history: Path) -> tuple[ObjectID | None, list[OldFile]]:
    """The commit that the HEAD of a bare repository is, and its files; None where nothing was committed.

    Raises LettaOpsError (`memory-damaged`).
    """
    from dulwich.errors import FileFormatException, NotGitRepository
    from dulwich.repo import Repo

    try:
        with Repo(str(history), bare=True) as bare:
            try:
                head = bare.head()
            except KeyError:
                return None, []  # V1 made one, and never wrote to it
            return head, list(_tree_files(bare, head))
    except (KeyError, NotGitRepository, FileFormatException, zlib.error, OSError) as error:
        raise LettaOpsError(
            "memory-damaged",
            f"the git memory in {history} can't be read: {type(error).__name__} {error}",
            "take the agent out of a backup of before; `letta-ops check` tells of damaged memory",
        ) from None


def _commits(history: Path) -> list[ObjectID]:
    from dulwich.repo import Repo

    with Repo(str(history), bare=True) as bare:
        return [step.commit.id for step in bare.get_walker()]


def _tree_files(repo: Repo, commit: ObjectID) -> Iterator[OldFile]:
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
            mode = PROGRAM if (entry.mode or 0) & 0o100 else FILE
            yield os.fsdecode(entry.path), blob.data, mode


def _in_the_way(path: str, paths: Collection[str]) -> bool:
    """Whether a file stands where `path` has a folder, or the other way round."""
    above = {str(each) for each in PurePosixPath(path).parents}
    return not above.isdisjoint(paths) or any(each.startswith(f"{path}/") for each in paths)


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


class Memory:
    """The repository in `folder`, read: what V1 had, and what became of it since."""

    def __init__(self, folder: Path) -> None:
        from dulwich.errors import NotGitRepository
        from dulwich.object_store import iter_tree_contents
        from dulwich.objects import Commit
        from dulwich.refs import Ref
        from dulwich.repo import Repo

        try:
            self._repo = Repo(str(folder))
            self._commit = self._repo.refs[Ref(TAG)]
            self._head = self._repo.refs[Ref(BRANCH)]
            commit = self._repo[self._commit]
            self._tree = commit.tree if isinstance(commit, Commit) else commit.id
            self._blobs = {
                os.fsdecode(entry.path): entry.sha
                for entry in iter_tree_contents(self._repo.object_store, self._tree)
            }
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

    @property
    def paths(self) -> Collection[str]:
        """The files that the export committed."""
        return self._blobs.keys()

    def read(self, path: str) -> bytes | None:
        """The file's content at the export; None where there is none."""
        from dulwich.objects import Blob

        blob = self._blobs.get(path)
        found = None if blob is None else self._repo.get_object(blob)
        return found.data if isinstance(found, Blob) else None

    def lacks(self, history: Path, own: Collection[str]) -> str | None:
        """What of a bare repository is not here: commits, and files of the last one but `own`, which the
        database has newer; None: nothing. Raises LettaOpsError (`memory-damaged`)."""
        head, files = _head_of(history)
        if head is None:
            return None
        for commit in _commits(history):
            if commit not in self._repo.object_store:
                return f"the commit {commit.decode()}"
        paths = set(self.paths)
        for path, content, _ in files:
            if (
                path not in own
                and self.read(path) != content
                and not _in_the_way(path, paths - {path})
            ):
                return path
        return None

    def changed(self) -> int:
        """How many files are others in the last commit than in that of the export."""
        from dulwich.diff_tree import tree_changes

        last = getattr(self._repo[self._head], "tree", None)
        return len(list(tree_changes(self._repo.object_store, self._tree, last)))

    def in_work_tree(self, path: str) -> bytes | None:
        try:
            return (Path(self._repo.path) / path).read_bytes()
        except OSError:
            return None

    def close(self) -> None:
        self._repo.close()
