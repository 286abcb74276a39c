"""Which docker plugin Pulumi gets: an official one wherever it can be had, else our stand-in.

Pulumi takes what it finds on PATH before what is installed. So the stand-in has a folder of its own,
which is on PATH only on machines that can have no other. Pulumi's official language host asks for
the plugin of every package in the environment, so this matters to stacks without a container, too.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from infra.errors import LettaOpsError
from infra.files import held, write_file
from infra.process import Report, attempt, command
from infra.pulumi_cli.cli_cache import DOCKER_STAND_INS, PulumiCli, put_stand_ins

DOCKER_PLUGIN = "pulumi-resource-docker"
DOCKER_VERSION = "5.2.0"
INSTALL_SECONDS = 120.0  # then this run goes on without it
RETRY_SECONDS = 24 * 3600.0  # after an installation that failed: machines come to reach more
UNREACHABLE = "this machine has no official Pulumi, and so none of its plugins"
HINT = f"pulumi plugin install resource docker {DOCKER_VERSION}"


def docker_stand_in(
    cli: PulumiCli,
    environment: Mapping[str, str],
    cache: Path,
    report: Report,
    *,
    on_path: bool,
    now: Callable[[], float] = time.time,
) -> Path | None:
    """Return the folder of the stand-in that `cli` needs on PATH; None where it needs none.

    `on_path`: the user's own PATH has an official plugin. `report` is told when the stand-in was
    not used before. Never raises what a stack without containers would fail of.
    """
    home = cache / "pulumi"
    note = home / "docker-plugin.json"
    decided = note.is_file()
    try:
        official = on_path or _installed(environment)
        reason = "" if official else _refusal(cli, environment, note, report, now)
        if not reason:
            if decided:
                note.unlink(missing_ok=True)
            return None
        folder = home / "docker-stand-in"
        put_stand_ins(folder, DOCKER_STAND_INS)
    except (OSError, LettaOpsError) as error:
        # Not raised: only a stack with containers needs the plugin, and Pulumi says then what is
        # missing.
        if not decided:
            report(f"no docker plugin can be prepared: {_first_line(error)}")
        return None
    if not decided:
        report(f"no official docker plugin ({reason}): containers are made by our stand-in")
    return folder


def _refusal(
    cli: PulumiCli,
    environment: Mapping[str, str],
    note: Path,
    report: Report,
    now: Callable[[], float],
) -> str:
    """Have the official plugin installed; return why it can't be had, or nothing.

    It is tried once a day at most; `note` keeps when, and what came of it.
    """
    if not _can_install(cli, environment):
        if not note.exists():
            _keep(note, 0.0, UNREACHABLE)
        return UNREACHABLE
    if reason := _recent(note, now()):
        return reason
    with held(note.with_suffix(".lock"), "another installation of a plugin", report):
        # Whoever held the lock before us may have tried.
        if reason := _recent(note, now()):
            return reason
        reason = "" if _installed(environment) else _install(cli, environment, report)
        if reason:
            _keep(note, now(), reason)
        return reason


def _install(cli: PulumiCli, environment: Mapping[str, str], report: Report) -> str:
    """Have the CLI install the official plugin; return why it can't be had, or nothing."""
    report(f"installing Pulumi's docker plugin {DOCKER_VERSION}, once")
    arguments = ("plugin", "install", "resource", "docker", DOCKER_VERSION)
    quiet = {**environment, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    job = command(cli.executable, *arguments, environment=quiet, timeout=INSTALL_SECONDS)
    try:
        done = attempt(job, code="pulumi-plugin", hint=HINT, what="installing it")
    except LettaOpsError as error:
        return _first_line(error)
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
    return last[0].removeprefix("error: ") if last else f"exit code {done.returncode}"


def _can_install(cli: PulumiCli, environment: Mapping[str, str]) -> bool:
    # A machine that has built its CLI itself doesn't reach the hosts where the plugins are, either.
    return cli.plugins == "official" and environment.get("LETTA_OPS_PULUMI_DOWNLOAD") != "0"


def _installed(environment: Mapping[str, str]) -> bool:
    """Whether Pulumi's own folder of plugins has one that serves our SDK."""
    home = environment.get("PULUMI_HOME")  # else in the home of passwd, whatever HOME says
    folder = Path(home) if home else _home(environment) / ".pulumi"
    lowest = _numbers(DOCKER_VERSION)
    for found in (folder / "plugins").glob("resource-docker-v*"):
        # Beside a plugin that is being installed lie files with other endings.
        version = re.fullmatch(r"resource-docker-v(\d+\.\d+\.\d+)", found.name)
        if version is None or found.with_name(f"{found.name}.partial").exists():
            continue
        numbers = _numbers(version.group(1))
        fitting = lowest <= numbers < (lowest[0] + 1,)
        if fitting and os.access(found / DOCKER_PLUGIN, os.X_OK):
            return True
    return False


def _home(environment: Mapping[str, str]) -> Path:
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # as in a container that runs as any user
        return Path(environment.get("HOME") or Path.home())


def _recent(note: Path, now: float) -> str:
    """Why the last try failed, if that was less than a day ago; else nothing."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_text())
        if now - known["tried"] < RETRY_SECONDS:
            return str(known["reason"])
    return ""


def _keep(note: Path, tried: float, reason: str) -> None:
    write_file(note, json.dumps({"tried": tried, "reason": reason}), 0o644)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _first_line(error: OSError | LettaOpsError) -> str:
    text = error.message if isinstance(error, LettaOpsError) else str(error.strerror or error)
    return text.splitlines()[0]
