"""The Pulumi CLI, wherever we are: found on PATH, else downloaded, else built; and its environment.

`python -m infra.pulumi_cli.cli ARGS...` runs `pulumi ARGS...` with the state folder and the passphrase.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from infra.errors import LettaOpsError
from infra.files import held
from infra.process import Report, attempt, become, command
from infra.pulumi_cli.cli_cache import (
    HINT,
    LANGUAGE_HOST,
    PULUMI_VERSION,
    PulumiCli,
    in_cache,
    obtain,
    put_stand_ins,
)
from infra.pulumi_cli.passphrase import ensure_passphrase, has_own_passphrase
from infra.pulumi_cli.plugins import DOCKER_PLUGIN, docker_stand_in
from infra.stack.locations import cache_folder, ensure_writable, state_folder

# Both words stand in the second line of our scripts in tools/pulumi.
OUR_MARKS = (b"letta-ops wrapper", b"letta-ops stand-in")


def find_pulumi(
    report: Report, environment: Mapping[str, str] = os.environ, cache: Path | None = None
) -> PulumiCli:
    """Return a CLI of a fitting version: from PATH, the cache, the official download, or built.

    `report` gets a line for each thing that takes time. Downloading takes about a minute, building
    about 4 on 2 cores; both happen once. Raises LettaOpsError when none can be had.
    """
    cache = cache or cache_folder(environment)
    found = _find(report, environment, cache)
    official = bool(_named(environment, DOCKER_PLUGIN))
    folder = docker_stand_in(found, environment, cache, report, on_path=official)
    return replace(found, docker_folder=folder)


def _find(report: Report, environment: Mapping[str, str], cache: Path) -> PulumiCli:
    home = cache / "pulumi"
    reasons: list[str] = []
    if found := present(environment, cache, reasons):
        if found.plugins == "stand-in":
            put_stand_ins(found.plugin_folder or found.executable.parent)
        return found
    ensure_writable(home)
    with held(home / "lock", "another preparation of the Pulumi CLI", report):
        # Whoever held the lock before us may have made it.
        if found := in_cache(home, reasons):
            return found
        for line in ("preparing the Pulumi CLI, once:", *(f"  {reason}" for reason in reasons)):
            report(line)
        try:
            return obtain(cache, environment, reasons, report)
        except OSError as error:
            raise LettaOpsError(
                "pulumi-cli",
                f"cannot keep the Pulumi CLI in {home}: {error.strerror or error}",
                "free some disk space, or name another folder with LETTA_OPS_CACHE",
            ) from None


def present(environment: Mapping[str, str], cache: Path, reasons: list[str]) -> PulumiCli | None:
    """Return the CLI that is there already, on PATH or in the cache, or None; writes nothing.

    `reasons` gets why each that was looked at does not do.
    """
    home = cache / "pulumi"
    return _on_path(environment, home, reasons) or in_cache(home, reasons)


def pulumi_environment(
    state: Path, cli: PulumiCli, environment: Mapping[str, str]
) -> dict[str, str]:
    """The full environment of a Pulumi run; a backend or passphrase that the user chose stays.

    The state folder `state` is the file backend, and holds the passphrase (`ensure_passphrase`).
    """
    folders = [cli.docker_folder, cli.plugin_folder, cli.executable.parent]
    ours = [str(folder) for folder in folders if folder is not None]
    result = dict(environment)
    result["PATH"] = os.pathsep.join([*ours, environment.get("PATH", os.defpath)])
    result["PULUMI_SKIP_UPDATE_CHECK"] = "true"
    # Providers start programs, and grpc would print a line for each fork.
    result |= {"GRPC_ENABLE_FORK_SUPPORT": "false", "GRPC_VERBOSITY": "NONE"}
    result["LETTA_OPS_PYTHON"] = sys.executable
    result.setdefault("PULUMI_PYTHON_CMD", sys.executable)
    if not result.get("PULUMI_BACKEND_URL"):
        result["PULUMI_BACKEND_URL"] = f"file://{state}"
    if not has_own_passphrase(environment):
        result["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(state / "passphrase")
    return result


def chosen_by_user(environment: Mapping[str, str]) -> list[str]:
    """The variables that decide where the state is, and what opens it, and that are the user's own."""
    names = ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_CONFIG_PASSPHRASE_FILE")
    return [name for name in names if environment.get(name)]


def fits(version: str) -> bool:
    """Whether this answer of `pulumi version` is at least the pinned version, and before 4.

    A pre-release comes before its release (semver.org, 11), so 3.250.0-beta does not fit.
    """
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)(-[\w.-]+)?(\+[\w.-]+)?$", version.strip())
    if found is None:
        return False
    numbers = tuple(int(part) for part in found.groups()[:3])
    lowest = tuple(int(part) for part in PULUMI_VERSION.split("."))
    return numbers < (4,) and (numbers > lowest or (numbers == lowest and not found.group(4)))


def _on_path(environment: Mapping[str, str], home: Path, reasons: list[str]) -> PulumiCli | None:
    candidates = [path for path in _named(environment, "pulumi") if not _is_below(path, home)]
    if not candidates:
        reasons.append("no pulumi on PATH")
    for executable in candidates:
        version = _version(executable, environment)
        if not fits(version):
            shown = version or "broken"
            reasons.append(
                f"{executable} is {shown}; at least {PULUMI_VERSION} and below 4 is needed"
            )
            continue
        neighbours = [
            folder / LANGUAGE_HOST for folder in {executable.parent, executable.resolve().parent}
        ]
        hosts = [host for host in neighbours if host.is_file() and not _is_ours(host)]
        if hosts or _named(environment, LANGUAGE_HOST):
            return PulumiCli(executable, "path", "official", tuple(reasons))
        reasons.append(f"no {LANGUAGE_HOST} beside {executable} nor on PATH")
        return PulumiCli(executable, "path", "stand-in", tuple(reasons), home / "stand-ins")
    return None


def _named(environment: Mapping[str, str], name: str) -> list[Path]:
    """Every executable of this name on PATH that is not one of our scripts."""
    folders = environment.get("PATH", "").split(os.pathsep)
    paths = [Path(folder) / name for folder in folders if folder]
    return [
        path for path in paths if os.access(path, os.X_OK) and path.is_file() and not _is_ours(path)
    ]


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as source:
            start = source.read(512)
    except OSError:
        return False
    return any(mark in start for mark in OUR_MARKS)


def _is_below(path: Path, folder: Path) -> bool:
    # Our own cache is on PATH below a Pulumi run; what lies there is not the user's choice.
    return path.resolve().is_relative_to(folder.resolve())


def _version(executable: Path, environment: Mapping[str, str]) -> str:
    quiet = {**environment, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    asked = command(executable, "version", environment=quiet, timeout=30)
    try:
        answer = attempt(asked, code="pulumi-cli", hint=HINT, what="asking Pulumi for its version")
    except LettaOpsError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def main(arguments: list[str]) -> int:
    """Become `pulumi ARGUMENTS...`; return 1 after an expected error."""
    try:
        state = state_folder()
        ensure_writable(state)
        cli = find_pulumi(lambda line: print(line, file=sys.stderr, flush=True))
        if not has_own_passphrase(os.environ):
            ensure_passphrase(state)
        environment = pulumi_environment(state, cli, os.environ)
        become(command(cli.executable, *arguments, environment=environment))
    except LettaOpsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + 2  # as a shell reports a program ended by SIGINT
    raise AssertionError("become does not return")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
