"""Who runs the services: us, or an unprivileged account when we are root."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from infra.errors import LettaOpsError
from infra.process import Command, attempt, command, run
from infra.stack.locations import StackFolder

if TYPE_CHECKING:
    import psutil

Role = Literal["server", "postgres"]

PLAIN = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
USABLE = "import ssl, sqlite3, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))"


@dataclass(frozen=True)
class Account:
    """The user that runs Postgres, the server and the tools of agents (never root), or `operator`."""

    name: str
    uid: int
    gid: int

    @property
    def owner(self) -> tuple[int, int]:
        return (self.uid, self.gid)

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()


def service_account(folder: StackFolder, role: Role) -> Account:
    """Return the account of a stack's services; as root, make a system account for it once.

    Postgres refuses to run as root, and the server runs code that agents write. Each stack has
    accounts of its own, so that the tools of one can't read another; Postgres has one apart, so
    that tools can't touch its files.
    """
    if os.geteuid() != 0:
        return operator()
    name = account_name(folder, role)
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        _make_account(name, folder)
        entry = pwd.getpwnam(name)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def operator() -> Account:
    """Return the account of whoever runs `up`: us. For what is the operator's own work only."""
    return Account(_name_of(os.geteuid()), os.geteuid(), os.getegid())


def account_name(folder: StackFolder, role: Role) -> str:
    """The system account's name: short, since Linux allows 32 characters, and stable."""
    digest = hashlib.sha256(os.fsencode(folder.root)).hexdigest()[:8]
    return f"letta-{role}-{digest}"


def remove_accounts(folder: StackFolder) -> None:
    """Remove the system accounts of a stack whose data is gone; as another user, there are none."""
    if os.geteuid() != 0:
        return
    for role in get_args(Role):
        name = account_name(folder, role)
        if _exists(name):
            _end_all_of(name)
            job = command(_administration("userdel", "deluser"), name)
            run(job, code="account", hint="remove it by hand", what=f"removing the account {name}")


def give(account: Account, *folders: Path) -> None:
    """Make `folders`, private to `account`. Their parents must be ours.

    We may be root, and what is in there is not ours: a link in the place of a folder is refused,
    or code of an agent could have us hand it any folder of this machine.
    """
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            raise LettaOpsError(
                "folder-replaced",
                f"{folder} is not a plain folder any more: {error.strerror}",
                "find out who replaced it: something with access to this stack's data may be hostile",
            ) from None
        try:
            os.fchmod(descriptor, 0o700)
            if not account.is_us:
                os.fchown(descriptor, account.uid, account.gid)
        finally:
            os.close(descriptor)


def let_through(account: Account, folder: Path) -> None:
    """Raise LettaOpsError when `account` cannot reach `folder` (a parent is closed to it)."""
    for step in (folder, *folder.parents):
        if not _may_enter(account, step.stat()):
            raise LettaOpsError(
                "folder-closed",
                f"the account '{account.name}', which runs the services, cannot enter {step}",
                "open it to others (chmod o+x), or name another state folder with LETTA_OPS_STATE"
                " and another cache folder with LETTA_OPS_CACHE",
            )


def _may_enter(account: Account, folder: os.stat_result) -> bool:
    if folder.st_uid == account.uid:
        return bool(folder.st_mode & stat.S_IXUSR)
    if folder.st_gid == account.gid:
        return bool(folder.st_mode & stat.S_IXGRP)
    return bool(folder.st_mode & stat.S_IXOTH)


def as_account(account: Account, job: Command) -> Command:
    """Return `job` to be run by `account`."""
    return job if account.is_us else replace(job, user=account.uid, group=account.gid)


def service_python(account: Account) -> Path:
    """Return a Python 3.11 to 3.13 that `account` may run; ours may lie in a closed home folder."""
    seen = []
    for candidate in _interpreters():
        seen.append(str(candidate))
        probe = command(candidate, "-c", USABLE, directory=Path("/"), timeout=30, environment=PLAIN)
        try:
            if attempt(as_account(account, probe), code="", hint="", what="").returncode == 0:
                return candidate
        except LettaOpsError:
            continue
    raise LettaOpsError(
        "no-python",
        f"the account '{account.name}', which runs the services, can run none of: {', '.join(seen)}",
        "install Python 3.11, 3.12 or 3.13 for everyone (on Debian: apt-get install python3)",
    )


def _interpreters() -> Iterator[Path]:
    yield Path(os.path.realpath(sys.executable))
    folders = [Path(folder) for folder in os.get_exec_path()]
    for folder in dict.fromkeys([Path("/usr/local/bin"), Path("/usr/bin"), *folders]):
        for name in ("python3.13", "python3.12", "python3.11", "python3"):
            if (folder / name).exists():
                yield folder / name


def _end_all_of(name: str) -> None:
    """Kill what still runs as the account: a tool of an agent may have gone its own way."""
    import psutil

    uid = pwd.getpwnam(name).pw_uid
    survivors = [each for each in psutil.process_iter(["uids"]) if _runs_as(each, uid)]
    for survivor in survivors:
        with suppress(psutil.Error):
            survivor.kill()
    psutil.wait_procs(survivors, timeout=10)


def _runs_as(process: psutil.Process, uid: int) -> bool:
    uids = process.info["uids"]
    return uids is not None and uid in uids


def _make_account(name: str, folder: StackFolder) -> None:
    settings: dict[str, Any] = {
        "code": "no-account",
        "hint": f"make the system account '{name}' by hand, or run this as another user than root",
        "what": f"making the system account '{name}'",
    }
    program = _administration("useradd", "adduser")
    if program.endswith("useradd"):
        run(command(program, "--system", "--user-group", "--no-create-home", "--home-dir",
                    "/nonexistent", "--shell", "/usr/sbin/nologin", "--comment",
                    f"letta-ops stack {folder.stack}", name), **settings)  # fmt: skip
    else:
        run(command(program, "-S", "-D", "-H", "-s", "/sbin/nologin", name), **settings)


def _administration(*names: str) -> str:
    """Find a program of the system's administration; these folders may be missing on PATH."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    raise LettaOpsError(
        "no-account",
        f"as root, the services get accounts of their own, and there is no {' or '.join(names)}",
        "install it (Debian: apt-get install passwd), or run this as another user than root",
    )


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        raise LettaOpsError(
            "no-account",
            f"the user with the number {uid} has no name on this machine, which Postgres insists on",
            "run this as a user of /etc/passwd, or as root",
        ) from None
