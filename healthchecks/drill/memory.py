"""Git-backed memory of a backup: laid down where the drill's server looks for it, and examined."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from backups.catalog import FAILED, PASSED
from backups.crypto import damaged
from backups.manifest import MEMORY as MEMORY_PART
from backups.opening import opened_part
from backups.sources.memory_tar import Contents, TarDamaged, TarReader
from backups.streams import chunks_of
from healthchecks.drill.course import Course
from healthchecks.drill.verdict import MEMORY, Check
from infra.accounts import Account, as_account, service_account
from infra.embedded.folders import plain_environment
from infra.errors import LettaOpsError
from infra.process import attempt, command

IN_HOME = ".letta"  # the tar's own first folder is `memfs`
REPOSITORY = {"HEAD", "objects", "refs"}
FSCK_SECONDS = 600


def judge_memory(course: Course) -> Check:
    """Lay the memory down; it is what the manifest says, and git finds every repository whole.

    Raises LettaOpsError, `part-damaged` for what is no tar of ours.
    """
    account = service_account(course.folder, "server")
    place = course.folder.home / IN_HOME
    found = _laid_down(course, place, account)
    wanted = course.manifest.memory
    if (found.repositories, found.files, found.digest) != (
        wanted.repositories,
        wanted.files,
        wanted.digest,
    ):
        return Check(
            MEMORY,
            FAILED,
            f"holds {found.repositories} repositories with {found.files} files, the manifest says"
            f" {wanted.repositories} with {wanted.files}, or their content differs",
        )
    if not found.files:
        return Check(MEMORY, PASSED, "there are no memory files in the backup")
    git = shutil.which("git")
    if git is None:
        return Check(
            MEMORY, PASSED, f"{found.files} files as in the manifest; there is no git here"
        )
    whole = 0
    for repository in _repositories(place):
        complaint = _fsck(course, account, git, repository)
        if complaint:
            return Check(
                MEMORY, FAILED, f"git fsck of {repository.relative_to(place)}: {complaint}"
            )
        whole += 1
    return Check(
        MEMORY, PASSED, f"{whole} repositories are whole, {found.files} files as in the manifest"
    )


def _laid_down(course: Course, place: Path, account: Account) -> Contents:
    """Nothing runs yet as the account that the folder belongs to, so paths in it are ours."""
    place.mkdir(mode=0o700)
    os.chown(place, *account.owner)
    with opened_part(course.store, course.backup, MEMORY_PART, course.key) as source:
        reader = TarReader(source.read)
        try:
            _write(reader, place, account)
        except TarDamaged as error:
            raise LettaOpsError(
                "part-damaged", f"the memory files: {error}", "use another backup"
            ) from None
        for _ in chunks_of(source):  # its own end is where the part is compared with the manifest
            raise damaged("the memory files", "there is something behind their end")
    assert reader.contents is not None  # noqa: S101  # known at the end of its pieces
    return reader.contents


def _write(reader: TarReader, place: Path, account: Account) -> None:
    descriptor: int | None = None
    try:
        for piece in reader.pieces():
            if piece.member is not None:
                if descriptor is not None:
                    os.close(descriptor)
                descriptor = _made(place, piece.member.path, piece.member.size, account)
            if piece.data and descriptor is not None:
                os.write(descriptor, piece.data)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _made(place: Path, path: bytes, size: int | None, account: Account) -> int | None:
    """Make a folder, or an empty file that is open for writing."""
    target = place / os.fsdecode(path)
    if size is None:
        target.mkdir(mode=0o700)
        os.chown(target, *account.owner)
        return None
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.fchown(descriptor, *account.owner)
    return descriptor


def _repositories(place: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(place):
        if {*folders, *files} >= REPOSITORY:
            folders.clear()
            yield Path(root)


def _fsck(course: Course, account: Account, git: str, repository: Path) -> str | None:
    """What git finds wrong; it runs as the account, since a repository's settings can run programs."""
    job = command(
        git, f"--git-dir={repository}", "fsck", "--full", "--no-dangling", "--no-progress",
        environment={**plain_environment(course.folder), "GIT_CONFIG_NOSYSTEM": "1"},
        directory=Path("/"), timeout=FSCK_SECONDS,
    )  # fmt: skip
    done = attempt(as_account(account, job), code="git", hint="", what="git fsck")
    if done.returncode == 0:
        return None
    return (done.stderr.strip() or done.stdout.strip() or "failed").splitlines()[0]
