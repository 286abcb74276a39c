"""Who runs the services: us, or an unprivileged account when we are root."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from infra.errors import LettaOpsError
from infra.process import Command, attempt, command, run

ACCOUNT = "letta-ops"
USABLE = "import ssl, sqlite3, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))"


@dataclass(frozen=True)
class Account:
    """The user that runs Postgres, the server and the tools of agents. Never root."""

    name: str
    uid: int
    gid: int

    @property
    def owner(self) -> tuple[int, int]:
        return (self.uid, self.gid)

    @property
    def is_us(self) -> bool:
        return self.uid == os.geteuid()


def service_account() -> Account:
    """Return the account of the services; as root, make the system account `letta-ops` once.

    Postgres refuses to run as root, and the server runs code that agents write.
    """
    if os.geteuid() != 0:
        name = pwd.getpwuid(os.geteuid()).pw_name
        return Account(name, os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        _make_account()
        entry = pwd.getpwnam(ACCOUNT)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def give(account: Account, *folders: Path, mode: int = 0o700) -> None:
    """Make `folders` and hand them to `account`."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
        if not account.is_us:
            shutil.chown(folder, account.uid, account.gid)


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
        probe = command(candidate, "-c", USABLE, directory=Path("/"), timeout=30)
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


def _make_account() -> None:
    settings = {
        "code": "no-account",
        "hint": f"make the system account '{ACCOUNT}' by hand, or run this as another user than root",
        "what": f"making the system account '{ACCOUNT}'",
    }
    if shutil.which("useradd"):
        run(command("useradd", "--system", "--user-group", "--no-create-home", "--home-dir",
                    "/nonexistent", "--shell", "/usr/sbin/nologin", ACCOUNT), **settings)  # fmt: skip
    else:
        run(command("adduser", "-S", "-D", "-H", "-s", "/sbin/nologin", ACCOUNT), **settings)
