"""Git-backed memory: real repositories, the real git, and the real script in a process of its own."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from backups.sources.memory_files import INSIDE, MemoryTar, program, read_memory, summarise
from backups.sources.memory_inside import objects
from backups.sources.memory_inside.read import write_memory
from backups.sources.memory_tar import BLOCK, TarReader, TarWriter
from infra.errors import LettaOpsError
from infra.process import command, fed
from infra.stack.deployment import Deployment, Server

AGENT = "repository/org-1/agent-1/repo.git"

needs_git = pytest.mark.skipif(
    shutil.which("git") is None, reason="git is not on this machine: its tests can't run"
)


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "memory.py"
    path.write_text(program())
    return path


class Home:
    """A server's home, and the script that works in it."""

    def __init__(self, script: Path, folder: Path) -> None:
        self.script, self.folder = script, folder
        self.live = folder / ".letta" / "memfs"

    def run(self, *words: str, stdin: bytes = b"", path: str | None = None) -> bytes:
        done = self.attempt(*words, stdin=stdin, path=path)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def attempt(
        self, *words: str, stdin: bytes = b"", path: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        first, *others = words
        return subprocess.run(
            [sys.executable, "-I", self.script, first, self.folder, *others],
            input=stdin,
            capture_output=True,
            env={"PATH": os.environ["PATH"] if path is None else path, "LANG": "C.UTF-8"},
            check=False,
        )

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.folder / ".letta").iterdir())


@pytest.fixture
def home(script: Path, tmp_path: Path) -> Home:
    made = Home(script, tmp_path / "home")
    made.folder.mkdir()
    return made


def git(folder: Path, *words: str) -> str:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *settings, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit(work: Path, number: int) -> None:
    (work / "system").mkdir(exist_ok=True)
    (work / "system" / "human.md").write_text(f"version {number}\n")
    (work / f"{number % 7}.md").write_text(f"{number}" * 100)
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", f"commit {number}")


def make_repository(home: Home, commits: int = 3, name: str = AGENT) -> Path:
    """A repository as Letta stores it: the `.git` of a working folder."""
    work = home.folder / "work" / name
    shutil.copytree(worked(commits), work)
    return Path(shutil.copytree(work / ".git", home.live / name))


@pytest.fixture(scope="session", autouse=True)
def worked_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    WORKED.append(tmp_path_factory.mktemp("worked"))
    yield
    worked.cache_clear()
    worked_large.cache_clear()
    WORKED.clear()


WORKED: list[Path] = []  # where working folders are made once, to be copied


@cache
def worked(commits: int) -> Path:
    work = WORKED[0] / f"{commits}"
    work.mkdir()
    git(work, "init", "-q", "-b", "main")
    for number in range(commits):
        commit(work, number)
    return work


@cache
def worked_large(packs: int) -> Path:
    """One of 3.5 MB that can't be compressed, loose or in packs."""
    work = Path(shutil.copytree(worked(3), WORKED[0] / f"large {packs}"))
    for number in range(8):
        for part in range(2):
            (work / f"large {number} {part}").write_bytes(os.urandom(220_000))
        commit(work, number + 50)
        if number < packs:
            git(work, "repack", "-q", "-d")
    return work


def files(folder: Path) -> dict[str, bytes]:
    """What a backup is to hold of it."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if "/hooks/" not in name and not name.endswith("/index")
    }


def tar_of(*members: tuple[str, bytes | None]) -> bytes:
    sink = io.BytesIO()
    writer = TarWriter(sink.write)
    for name, content in members:
        if content is None:
            writer.folder(name.encode())
        else:
            writer.file(name.encode(), len(content), [content] if content else [])
    writer.end()
    return sink.getvalue()


@needs_git
def test_what_was_read_is_written_and_swapped_in_with_the_same_content(home: Home) -> None:
    store = make_repository(home)
    (store / "refs" / "empty").mkdir()
    (home.live / "a note \udce9.txt").write_bytes(b"kept as it is")
    before = files(home.live)
    tar = home.run("read")
    (store / "HEAD").write_text("destroyed")
    for loose in (store / "objects").glob("??"):
        shutil.rmtree(loose)
    written = json.loads(home.run("write", stdin=tar))
    assert home.run("digest", "restoring") == home.run("digest", "restoring")
    assert json.loads(home.run("fsck", "restoring")) == []
    assert json.loads(home.run("fsck")) != []
    assert json.loads(home.run("swap")) == "swapped"
    assert files(home.live) == before
    assert (store / "refs" / "empty").is_dir()
    assert json.loads(home.run("fsck")) == []
    assert json.loads(home.run("digest")) == written
    memory = summarise(io.BytesIO(tar))
    assert (memory.repositories, memory.files) == (1, len(before))
    assert memory.digest == written["digest"]
    assert not (store / "hooks").exists()


@needs_git
def test_the_digest_is_over_sorted_paths_and_contents(home: Home) -> None:
    make_repository(home)
    expected = hashlib.sha256()
    found = {f"memfs/{name}".encode(): content for name, content in files(home.live).items()}
    for name in sorted(found, key=lambda name: name.split(b"/")):
        digest = hashlib.sha256(found[name]).hexdigest().encode()
        expected.update(b"%d %s %s\n" % (len(name), name, digest))
    assert summarise(io.BytesIO(home.run("read"))).digest == expected.hexdigest()


@needs_git
def test_the_same_memory_gives_the_same_bytes_whatever_its_times_and_modes(home: Home) -> None:
    store = make_repository(home)
    first = home.run("read")
    os.utime(store / "HEAD", (1, 1))
    (store / "config").chmod(0o640)
    assert home.run("read") == first


def test_no_memory_is_an_empty_tar_and_empty_memory_is_restored_as_such(home: Home) -> None:
    tar = home.run("read")
    assert summarise(io.BytesIO(tar)).files == 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as readable:
        assert readable.getnames() == ["memfs.end"]
    home.live.mkdir(parents=True)
    (home.live / "later").write_text("x")
    home.run("write", stdin=tar)
    home.run("swap")
    assert list(home.live.iterdir()) == []
    home.run("undo")
    assert (home.live / "later").read_text() == "x"


@needs_git
def test_links_and_special_files_are_told_and_not_taken(home: Home) -> None:
    store = make_repository(home)
    (home.live / "passwd").symlink_to("/etc/passwd")
    (home.live / "elsewhere").symlink_to("/etc")
    (store / "refs" / "heads" / "other").symlink_to("/etc/hostname")
    os.mkfifo(home.live / "fifo")
    tar = home.run("read")
    reader = TarReader(io.BytesIO(tar).read)
    names = [piece.member.path for piece in reader.pieces() if piece.member]
    assert not [name for name in names if b"passwd" in name or b"fifo" in name or b"other" in name]
    assert reader.contents is not None
    assert any("4 links or special files not taken" in note for note in reader.contents.notes)


@pytest.mark.parametrize("name", [".letta", ".letta/memfs"])
def test_a_link_in_the_place_of_the_folder_is_refused_and_not_taken_for_no_memory(
    home: Home, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "elsewhere" / "memfs"
    target.mkdir(parents=True)
    place = home.folder / name
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(target.parent if name == ".letta" else target)
    done = home.attempt("read")
    assert done.returncode == 1
    assert b"not a plain folder" in done.stderr


@needs_git
def test_without_git_memory_is_read_and_that_is_told(home: Home) -> None:
    make_repository(home)
    tar = home.run("read", path="/nowhere")
    reader = TarReader(io.BytesIO(tar).read)
    for _ in reader.pieces():
        pass
    assert reader.contents is not None
    assert "there is no git" in reader.contents.notes[0]
    assert json.loads(home.run("fsck", path="/nowhere")) is None


@needs_git
def test_packed_repositories_and_packed_refs_are_read(home: Home) -> None:
    work = home.folder / "work"
    work.mkdir()
    git(work, "init", "-q", "-b", "main")
    for number in range(4):
        commit(work, number)
        git(work, "tag", "-a", "-m", "x", f"t{number}")
    git(work, "gc", "-q")
    shutil.copytree(work / ".git", home.live / AGENT)
    assert (home.live / AGENT / "packed-refs").is_file()
    home.run("write", stdin=home.run("read"))
    assert json.loads(home.run("fsck", "restoring")) == []
    restored = home.folder / ".letta" / "memfs.restoring" / AGENT
    assert git(restored, "rev-parse", "t3^{}") == git(work, "rev-parse", "HEAD")


def store_as_letta_does(work: Path, store: Path) -> None:
    """Its way of writing: every changed file over the stored one, in the order of `os.walk`."""
    for root, _, names in os.walk(work / ".git"):
        for name in names:
            source = Path(root) / name
            target = store / source.relative_to(work / ".git")
            try:
                content = source.read_bytes()
            except FileNotFoundError:
                continue
            if target.exists() and target.read_bytes() == content:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as sink:
                sink.write(content)


def keep_writing(home: Home, stop: threading.Event, counted: list[int]) -> None:
    """One repository that Letta writes, and one in which git itself works and cleans up."""
    store, stored = home.live / AGENT, home.folder / "work" / AGENT
    lively = home.live / "repository/org-1/agent-2/repo.git"
    for number in itertools.count(100):
        if stop.is_set():
            return
        commit(stored, number)
        store_as_letta_does(stored, store)
        git(lively.parent, "--git-dir", str(lively), "branch", f"b{number % 5}", "-f", "main")
        blob = git(lively.parent, "--git-dir", str(lively), "hash-object", "-w", __file__)
        tree = subprocess.run(
            ["git", "--git-dir", lively, "mktree"],
            input=f"100644 blob {blob}\tfile {number}\n",
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        made = git(
            lively.parent, "--git-dir", str(lively),
            "commit-tree", "-p", "main", "-m", f"{number}", tree,
        )  # fmt: skip
        git(lively.parent, "--git-dir", str(lively), "update-ref", "refs/heads/main", made)
        if number % 3 == 0:
            git(lively.parent, "--git-dir", str(lively), "gc", "-q")
        counted.append(number)


@needs_git
@pytest.mark.parametrize("rounds", [4, pytest.param(40, marks=pytest.mark.long)])
def test_memory_that_is_read_while_it_is_written_is_whole_every_time(
    home: Home, rounds: int
) -> None:
    make_repository(home)
    make_repository(home, name="repository/org-1/agent-2/repo.git")
    stop = threading.Event()
    counted: list[int] = []
    failed: list[BaseException] = []

    def write() -> None:
        try:
            keep_writing(home, stop, counted)
        except BaseException as error:
            failed.append(error)
            raise

    writer = threading.Thread(target=write)
    writer.start()
    heads = set()
    try:
        for _ in range(rounds):
            tar = home.run("read")
            notes = TarReader(io.BytesIO(tar).read)
            for _ in notes.pieces():
                pass
            assert notes.contents is not None
            assert notes.contents.notes == ()
            written = json.loads(home.run("write", stdin=tar))
            assert written["repositories"] == 2
            assert json.loads(home.run("fsck", "restoring")) == []
            restored = home.folder / ".letta" / "memfs.restoring"
            for repository in (restored / "repository/org-1").glob("*/repo.git"):
                git(repository, "--git-dir", ".", "rev-list", "--objects", "--all", "--reflog")
                heads.add(git(repository, "--git-dir", ".", "rev-parse", "main"))
    finally:
        stop.set()
        writer.join()
    assert not failed
    assert len(counted) >= rounds, "the writer has hardly written"
    assert len(heads) >= rounds // 2, "what was read has hardly changed"


def file_of(store: Path, ref: str) -> Path:
    """The loose file of the object that `ref` names."""
    found = git(store, "--git-dir", ".", "rev-parse", ref)
    return store / "objects" / found[:2] / found[2:]


@needs_git
@pytest.mark.parametrize("part", ["a blob", "a tree", "a commit", "a ref", "HEAD", "a log"])
def test_a_file_that_is_half_written_is_waited_for(home: Home, part: str) -> None:
    store = make_repository(home)
    path = {
        "a blob": file_of(store, "main:system/human.md"),
        "a tree": file_of(store, "main:system"),
        "a commit": file_of(store, "main"),
        "a ref": store / "refs/heads/main",
        "HEAD": store / "HEAD",
        "a log": store / "logs/HEAD",
    }[part]
    content = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(content[:15])
    timer = threading.Timer(1.0, path.write_bytes, (content,))
    timer.start()
    tar = home.run("read")
    timer.join()
    assert json.loads(home.run("write", stdin=tar))["notes"] == []
    assert json.loads(home.run("fsck", "restoring")) == []
    assert files(home.live) == files(home.live.with_name("memfs.restoring"))


@needs_git
@pytest.mark.parametrize("part", ["main", "main:system", "main:system/human.md"])
def test_objects_that_come_after_the_ref_that_leads_to_them_are_waited_for(
    home: Home, part: str
) -> None:
    store = make_repository(home)
    path = file_of(store, part)
    aside = home.folder / "aside"
    path.rename(aside)
    timer = threading.Timer(1.0, aside.rename, (path,))
    timer.start()
    tar = home.run("read")
    timer.join()
    home.run("write", stdin=tar)
    assert json.loads(home.run("fsck", "restoring")) == []


class PausedRead:
    """A read that has to wait in the middle of a repository's objects, until the rest is taken."""

    def __init__(self, home: Home) -> None:
        self._running = subprocess.Popen(
            [sys.executable, "-I", home.script, "read", home.folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        assert self._running.stdout is not None
        # It has a buffer of 1 MB, and the pipe one of 64 kB: there is more to come than that.
        self._first = self._running.stdout.read(1)
        assert self._first

    def finish(self) -> tuple[int, bytes, str]:
        out, err = self._running.communicate()
        return self._running.returncode, self._first + out, err.decode()


def make_large_repository(home: Home, packs: int = 0) -> Path:
    """As `worked_large`."""
    work = home.folder / "work" / AGENT
    shutil.copytree(worked_large(packs), work)
    store = Path(shutil.copytree(work / ".git", home.live / AGENT))
    assert len(list(store.glob("objects/pack/*.pack"))) == packs
    return store


OTHER_CLEAN_UPS = ((0, "gc"), (8, "gc"), (0, "repack"), (3, "repack"))


@needs_git
@pytest.mark.parametrize(
    ("packs", "clean_up"),
    [
        (3, "gc"),
        (8, "repack"),
        *(pytest.param(*each, marks=pytest.mark.long) for each in OTHER_CLEAN_UPS),
    ],
)
def test_objects_that_are_packed_while_they_are_read_are_all_there(
    home: Home, packs: int, clean_up: str
) -> None:
    store = make_large_repository(home, packs)
    expected = git(store, "--git-dir", ".", "rev-list", "--objects", "--all", "--reflog")
    reading = PausedRead(home)
    words = ("gc", "-q") if clean_up == "gc" else ("repack", "-q", "-a", "-d")
    git(store, "--git-dir", ".", *words)
    assert len(list(store.glob("objects/pack/*.pack"))) == 1
    code, tar, complaint = reading.finish()
    assert code == 0, complaint
    home.run("write", stdin=tar)
    assert json.loads(home.run("fsck", "restoring")) == []
    restored = home.live.with_name("memfs.restoring") / AGENT
    found = git(restored, "--git-dir", ".", "rev-list", "--objects", "--all", "--reflog")
    assert found == expected


@needs_git
def test_what_is_committed_and_packed_while_it_is_read_is_not_half_in_it(home: Home) -> None:
    store = make_large_repository(home)
    head = git(store, "--git-dir", ".", "rev-parse", "main")
    reading = PausedRead(home)
    work = home.folder / "work" / AGENT
    commit(work, 99)
    store_as_letta_does(work, store)
    git(store, "--git-dir", ".", "pack-refs", "--all")
    git(store, "--git-dir", ".", "gc", "-q")
    assert (store / "objects/info/commit-graph").is_file()
    code, tar, complaint = reading.finish()
    assert code == 0, complaint
    home.run("write", stdin=tar)
    assert json.loads(home.run("fsck", "restoring")) == []
    restored = home.live.with_name("memfs.restoring") / AGENT
    assert git(restored, "--git-dir", ".", "rev-parse", "main") == head
    # It knows the commit that isn't there: of another moment, it would be wrong.
    assert not (restored / "objects/info/commit-graph").exists()


@needs_git
def test_packs_that_are_replaced_between_listing_and_opening_are_listed_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside: nobody outside could hit that moment."""
    store = make_large_repository(home, 3)
    listed: list[list[bytes]] = []
    real = objects._packs

    def replaced(folder: bytes) -> list[bytes]:
        listed.append(real(folder))
        if len(listed) == 1:
            git(store, "--git-dir", ".", "repack", "-q", "-a", "-d")
        return listed[-1]

    monkeypatch.setattr(objects, "_packs", replaced)
    sink = io.BytesIO()
    writer = TarWriter(sink.write)
    write_memory(writer, os.fsencode(home.live))
    assert writer.end().notes == ()
    assert listed[0] != listed[-1]
    home.run("write", stdin=sink.getvalue())
    assert json.loads(home.run("fsck", "restoring")) == []


@needs_git
def test_history_that_is_removed_while_it_is_read_makes_the_read_fail(home: Home) -> None:
    store = make_large_repository(home)
    reading = PausedRead(home)
    git(store, "--git-dir", ".", "update-ref", "refs/heads/main", "main~5")
    git(store, "--git-dir", ".", "reflog", "expire", "--expire=now", "--all")
    git(store, "--git-dir", ".", "gc", "-q", "--prune=now")
    code, tar, complaint = reading.finish()
    assert code == 1
    assert "history was removed while it was read" in complaint
    with pytest.raises(LettaOpsError):
        summarise(io.BytesIO(tar))


@needs_git
def test_what_is_damaged_already_is_taken_as_it_is_and_told(home: Home) -> None:
    store = make_repository(home)
    (store / "refs" / "heads" / "main").write_bytes(b"")
    before = files(home.live)
    reader = TarReader(io.BytesIO(home.run("read")).read)
    for _ in reader.pieces():
        pass
    assert reader.contents is not None
    assert any("refs/heads/main is damaged" in note for note in reader.contents.notes)
    assert reader.contents.files == len(before)


HOSTILE = {
    "an absolute name": [("/etc/passwd", b"x")],
    "a name that leads out": [("memfs", None), ("memfs/../x", b"x")],
    "a name elsewhere": [("other", None), ("other/x", b"x")],
    "a dot": [("memfs", None), ("memfs/./x", b"x")],
    "an empty part": [("memfs", None), ("memfs//x", b"x")],
    "a file as a folder": [("memfs", None), ("memfs/a", b"x"), ("memfs/a/b", b"x")],
    "no folder": [("memfs", None), ("memfs/a/b", b"x")],
    "a name twice": [("memfs", None), ("memfs/a", b"x"), ("memfs/a", b"y")],
    "no order": [("memfs", None), ("memfs/b", b"x"), ("memfs/a", b"y")],
    "a file instead of memory": [("memfs", b"x")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_tar_is_refused(home: Home, members: list[tuple[str, bytes | None]]) -> None:
    tar = tar_of(*members)
    done = home.attempt("write", stdin=tar)
    assert done.returncode == 1
    assert "memfs.restoring" not in home.names()
    with pytest.raises(LettaOpsError) as refusal:
        summarise(io.BytesIO(tar))
    assert refusal.value.code == "memory-damaged"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.XHDTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(home: Home, kind: bytes) -> None:
    member = tarfile.TarInfo("memfs/link")
    member.type, member.linkname = kind, "/etc"
    tar = tar_of(("memfs", None))
    tar = tar[:BLOCK] + member.tobuf(tarfile.GNU_FORMAT) + tar[BLOCK:]
    done = home.attempt("write", stdin=tar)
    assert done.returncode == 1
    assert b"neither a folder nor a regular file" in done.stderr
    assert "memfs.restoring" not in home.names()


def test_a_tar_that_was_cut_or_altered_anywhere_is_refused() -> None:
    tar = tar_of(("memfs", None), ("memfs/a", b"x" * 700), ("memfs/" + "long" * 60, b""))
    whole = summarise(io.BytesIO(tar))
    for end in range(0, len(tar), 64):
        with pytest.raises(LettaOpsError):
            summarise(io.BytesIO(tar[:end]))
    with pytest.raises(LettaOpsError):
        summarise(io.BytesIO(tar + b"\0"))
    for place in range(0, len(tar), 7):
        altered = bytearray(tar)
        altered[place] ^= 1
        try:
            assert summarise(io.BytesIO(bytes(altered))) == whole
        except LettaOpsError as error:
            assert error.code == "memory-damaged"  # noqa: PT017  # a change may not matter


def test_a_file_larger_than_a_piece_comes_through(home: Home) -> None:
    home.live.mkdir(parents=True)
    content = os.urandom(3_000_001)
    (home.live / "large").write_bytes(content)
    home.run("write", stdin=home.run("read"))
    home.run("swap")
    assert (home.live / "large").read_bytes() == content


KILLER = """
import os, signal, sys
name = "{inside}.swap"
module = sys.modules[name]
left = [int(os.environ["STEPS"])]
def step(what):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
module.step = step
"""


@pytest.fixture(scope="session")
def killed_script(script: Path) -> Path:
    """The script, but it kills itself ahead of the step that `STEPS` numbers."""
    *body, main = script.read_text().rstrip().split("\n")
    path = script.with_name("killed.py")
    path.write_text("\n".join([*body, KILLER.format(inside=INSIDE), main]))
    return path


def kill_in(home: Home, killed: Path, job: str, steps: int, stdin: bytes = b"") -> bool:
    """Whether it was killed: with more steps than it has it comes to its end."""
    done = subprocess.run(
        [sys.executable, "-I", killed, job, home.folder],
        input=stdin,
        capture_output=True,
        env={"STEPS": str(steps), "PATH": os.environ["PATH"]},
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr.decode()
    return done.returncode == -9


def old_and_new(home: Home, *, earlier: bool) -> bytes:
    """Live memory `old`, perhaps with what an earlier restore replaced; and a tar of `new`."""
    home.live.mkdir(parents=True)
    (home.live / "which").write_text("old")
    if earlier:
        before = home.live.with_name("memfs.before")
        before.mkdir()
        (before / "which").write_text("of an earlier restore")
    tar = tar_of(("memfs", None), ("memfs/which", b"new"))
    home.run("write", stdin=tar)
    return tar


def which(home: Home, name: str = "memfs") -> str:
    return (home.live.with_name(name) / "which").read_text()


STEPS = range(5)


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "with an earlier one"])
@pytest.mark.parametrize("steps", STEPS)
def test_a_swap_killed_at_any_step_runs_on_or_is_undone(
    home: Home, killed_script: Path, steps: int, earlier: bool
) -> None:
    old_and_new(home, earlier=earlier)
    killed = kill_in(home, killed_script, "swap", steps)
    assert killed == (steps < (4 if earlier else 3))
    saved = home.folder.with_name("saved")
    shutil.copytree(home.folder, saved)

    home.run("swap")
    assert which(home) == "new"
    assert which(home, "memfs.before") == "old"
    assert home.names() == ["memfs", "memfs.before", *(["memfs.older"] if earlier else [])]

    shutil.rmtree(home.folder)
    saved.rename(home.folder)
    home.run("undo")
    assert which(home) == "old"
    assert which(home, "memfs.restoring") == "new"
    if earlier:
        assert which(home, "memfs.before") == "of an earlier restore"
    home.run("swap")
    assert which(home) == "new"


@pytest.mark.parametrize("earlier", [False, True], ids=["first", "with an earlier one"])
@pytest.mark.parametrize("steps", STEPS)
def test_an_undo_killed_at_any_step_runs_on_or_is_swapped_again(
    home: Home, killed_script: Path, steps: int, earlier: bool
) -> None:
    old_and_new(home, earlier=earlier)
    home.run("swap")
    assert kill_in(home, killed_script, "undo", steps) == (steps < (4 if earlier else 3))
    saved = home.folder.with_name("saved")
    shutil.copytree(home.folder, saved)

    home.run("undo")
    home.run("undo")
    assert which(home) == "old"
    assert home.names() == ["memfs", *(["memfs.before"] if earlier else []), "memfs.restoring"]
    if earlier:
        assert which(home, "memfs.before") == "of an earlier restore"

    shutil.rmtree(home.folder)
    saved.rename(home.folder)
    home.run("swap")
    home.run("swap")
    assert which(home) == "new"
    assert which(home, "memfs.before") == "old"


@pytest.mark.parametrize("steps", [1, 2])
def test_in_the_middle_of_a_swap_nothing_is_read_or_dropped_and_a_new_write_goes_back(
    home: Home, killed_script: Path, steps: int
) -> None:
    tar = old_and_new(home, earlier=False)
    assert kill_in(home, killed_script, "swap", steps)
    for job in ("read", "digest", "fsck", "drop", "forget"):
        done = home.attempt(job)
        assert done.returncode == 1
        assert b"interrupted" in done.stderr
    home.run("write", stdin=tar)
    assert which(home) == "old"
    assert home.names() == ["memfs", "memfs.restoring"]


def test_an_empty_folder_that_a_server_made_in_between_is_replaced_and_a_full_one_refused(
    home: Home, killed_script: Path
) -> None:
    old_and_new(home, earlier=False)
    assert kill_in(home, killed_script, "swap", 2)
    assert not home.live.exists()
    (home.live / "repository").mkdir(parents=True)
    (home.live / "repository" / "file").write_text("written in between")
    assert home.attempt("swap").returncode == 1
    assert home.attempt("undo").returncode == 1
    (home.live / "repository" / "file").unlink()
    home.run("swap")
    assert which(home) == "new"
    assert which(home, "memfs.before") == "old"


def test_a_write_that_is_killed_leaves_nothing_that_could_be_swapped_in(
    home: Home, killed_script: Path
) -> None:
    tar = tar_of(("memfs", None), ("memfs/which", b"new"))
    assert kill_in(home, killed_script, "write", 0, stdin=tar)
    assert home.names() == ["memfs.part"]
    done = home.attempt("swap")
    assert done.returncode == 1
    assert b"nothing that was written" in done.stderr
    assert home.attempt("write", stdin=tar[: 2 * BLOCK]).returncode == 1
    home.run("write", stdin=tar)
    home.run("swap")
    assert which(home) == "new"


def memory_of(agent: str, text: bytes) -> bytes:
    above = ["memfs", "memfs/repository", "memfs/repository/org", f"memfs/repository/org/{agent}"]
    return tar_of(*((each, None) for each in above), (f"{above[-1]}/which", text))


def one(home: Home, agent: str) -> str:
    return (home.live / "repository" / "org" / agent / "which").read_text()


def test_one_agents_memory_is_read_added_and_removed_beside_the_others(home: Home) -> None:
    assert home.run("add", stdin=memory_of("a", b"of a")) == b"false\n"
    assert home.run("add", stdin=memory_of("b", b"of b")) == b"false\n"
    assert home.run("read", "b") == memory_of("b", b"of b")
    assert home.run("read", "c") == tar_of(("memfs", None), ("memfs/repository", None))
    assert home.run("add", stdin=memory_of("a", b"new")) == b"true\n"
    assert (one(home, "a"), one(home, "b")) == ("new", "of b")
    (aside,) = home.live.with_name("memfs.aside").iterdir()
    assert (aside / "which").read_text() == "of a"
    assert home.attempt("add", stdin=memory_of("a", b"cut")[:-BLOCK]).returncode == 1
    assert one(home, "a") == "new"
    assert json.loads(home.run("remove", "a", "c")) == ["a"]
    assert home.run("read") == memory_of("b", b"of b")
    assert not any(home.live.with_name("memfs.aside").iterdir())


@pytest.mark.parametrize("steps", range(3))
def test_an_add_killed_at_any_step_loses_nothing_and_can_be_done_again(
    home: Home, killed_script: Path, steps: int
) -> None:
    home.run("add", stdin=memory_of("a", b"old"))
    new = memory_of("a", b"new")
    assert kill_in(home, killed_script, "add", steps, stdin=new)
    held = [path.read_text() for path in home.folder.rglob("which")]
    assert "old" in held
    home.run("add", stdin=new)
    assert one(home, "a") == "new"
    assert home.run("read") == new
    assert "old" in [path.read_text() for path in home.folder.rglob("which")]


def test_what_a_proven_swap_replaced_can_be_brought_back_whatever_waits(home: Home) -> None:
    tar = old_and_new(home, earlier=True)
    home.run("swap")
    home.run("write", stdin=tar)  # of a restore that failed
    assert home.names() == ["memfs", "memfs.before", "memfs.older", "memfs.restoring"]
    home.run("forget")
    assert home.names() == ["memfs", "memfs.before"]
    for _ in range(2):
        home.run("undo")
        assert which(home) == "old"
        assert which(home, "memfs.restoring") == "new"
        assert home.names() == ["memfs", "memfs.restoring"]


def test_undo_leaves_an_earlier_restore_alone_when_nothing_was_swapped(home: Home) -> None:
    old_and_new(home, earlier=True)
    home.run("undo")
    assert which(home) == "old"
    assert which(home, "memfs.before") == "of an earlier restore"
    home.run("swap")
    home.run("swap")
    home.run("drop")
    assert json.loads(home.run("state")) == {"before": False, "half_way": False}
    assert home.names() == ["memfs"]


def test_where_memory_cannot_be_reached_the_tar_is_empty_and_that_is_told() -> None:
    told: list[str] = []
    deployment = Deployment("prod", "external", Server("http://127.0.0.1:1"))
    with read_memory(deployment, told.append) as tar:
        memory = summarise(io.BytesIO(b"".join(tar)))
        assert memory == tar.summary()
    assert memory.files == 0
    assert "can't be reached" in told[0]


class Scripted:
    """A script's output that ends somewhere, and the script's own error."""

    def __init__(self, output: bytes, error: LettaOpsError | None) -> None:
        self.output, self.error = output, error

    def __enter__(self) -> io.BytesIO:
        return io.BytesIO(self.output)

    def __exit__(self, *_: object) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("failed", [True, False])
def test_a_script_that_ends_half_way_is_never_a_short_tar(failed: bool) -> None:
    whole = tar_of(("memfs", None), ("memfs/a", b"x" * 10_000))
    error = LettaOpsError("memory-files", "exit code 1", "look") if failed else None
    source = Scripted(whole[: 6 * BLOCK], error)
    tar = MemoryTar(source, lambda _: None)
    with pytest.raises(LettaOpsError) as raised:
        list(tar)
    assert raised.value.code == ("memory-files" if failed else "memory-damaged")
    with pytest.raises(LettaOpsError):
        tar.summary()


def test_a_whole_tar_of_a_script_that_failed_in_the_end_is_no_backup() -> None:
    error = LettaOpsError("memory-files", "exit code 1", "look")
    tar = MemoryTar(Scripted(tar_of(("memfs", None)), error), lambda _: None)
    with pytest.raises(LettaOpsError):
        list(tar)


def test_a_file_that_becomes_shorter_while_it_is_read_is_an_error() -> None:
    def cut() -> Iterator[bytes]:
        yield b"ab"

    with pytest.raises(EOFError):
        TarWriter(lambda _: None).file(b"memfs/a", 3, cut())


def test_what_the_source_raises_is_not_taken_for_the_end_of_the_script() -> None:
    """A store's connection breaks with the same errors as a pipe."""

    def broken() -> Iterator[bytes]:
        yield b"x"
        raise BrokenPipeError("the store has gone")

    reads = command(sys.executable, "-c", "import sys; sys.stdin.read()")
    with pytest.raises(BrokenPipeError, match="the store has gone"):
        fed(reads, broken(), code="c", hint="h", what="w")


def test_a_program_that_ends_before_it_has_taken_everything_says_why() -> None:
    fails = command(sys.executable, "-c", "import sys; sys.exit('the disk is full')")
    with pytest.raises(LettaOpsError) as failure:
        fed(fails, itertools.repeat(bytes(1 << 16), 100), code="c", hint="h", what="w")
    assert "the disk is full" in failure.value.message
