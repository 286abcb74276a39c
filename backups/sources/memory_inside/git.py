"""Asking git about a repository; its answers only, it changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess  # here are no packages of ours: see pyproject.toml

PROBLEMS = 5  # of one repository that are told


def missing(folder: bytes, tips: list[bytes]) -> str | None:
    """What git misses of all that the objects `tips` lead to; None: nothing, or there is no git."""
    if not tips or not has_git():
        return None
    done = _git(folder, "rev-list", "--objects", "--quiet", "--stdin", stdin=b"\n".join(tips))
    if done.returncode == 0:
        return None
    return (_lines(done.stderr) or ["git can't read it"])[-1]


def problems(folder: bytes) -> list[str]:
    """What `git fsck` finds wrong."""
    done = _git(folder, "fsck", "--full", "--no-dangling", "--no-progress")
    if done.returncode == 0:
        return []
    return (_lines(done.stderr) + _lines(done.stdout) or ["git fsck says no more"])[:PROBLEMS]


def has_git() -> bool:
    return shutil.which("git") is not None


def _git(folder: bytes, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """With nobody's configuration but the repository's own."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_DIR": os.fsdecode(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C",
    }
    safe = ("-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
    return subprocess.run(
        ["git", *safe, *arguments], input=stdin, capture_output=True, env=environment, check=False
    )


def _lines(raw: bytes) -> list[str]:
    return raw.decode(errors="replace").strip().splitlines()
