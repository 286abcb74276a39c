"""The Pulumi CLI that we keep in the user's cache: downloaded or built, once, with its plugins."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from infra.errors import LettaOpsError
from infra.process import Report
from infra.pulumi_cli.cli_download import DownloadError, download_pulumi
from infra.pulumi_cli.go_tools import GoTool, build_tool, tools_folder

PULUMI_VERSION = "3.250.0"
LANGUAGE_HOST = "pulumi-language-python"
STAND_INS = (
    LANGUAGE_HOST,
    "pulumi-resource-pulumi-python",
    "language_host.py",
    "dynamic_provider.py",
    "orphan.py",
)
DOCKER_STAND_INS = (
    "pulumi-resource-docker",
    "docker_provider.py",
    "orphan.py",
    "docker_plugin/__init__.py",
    "docker_plugin/check.py",
    "docker_plugin/configuration.py",
    "docker_plugin/container.py",
    "docker_plugin/difference.py",
    "docker_plugin/engine.py",
    "docker_plugin/fields.py",
    "docker_plugin/image.py",
    "docker_plugin/network.py",
    "docker_plugin/outputs.py",
    "docker_plugin/properties.py",
    "docker_plugin/redaction.py",
    "docker_plugin/resource_types.py",
    "docker_plugin/schema.py",
    "docker_plugin/service.py",
    "docker_plugin/volume.py",
)
FINISHED = "finished.json"
HINT = f"install Pulumi {PULUMI_VERSION} (pulumi.com/docs/install) and put it on PATH"
PULUMI = GoTool(
    name=f"Pulumi {PULUMI_VERSION}",
    package="github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
    # Without the version a built CLI calls itself a development one, and refuses projects.
    linker_flags="-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v"
    + PULUMI_VERSION,
)


@dataclass(frozen=True)
class PulumiCli:
    """A Pulumi CLI that fits, and why it was not an earlier choice that was taken.

    `plugin_folder` is where its Python plugins lie when that is not beside the executable,
    `docker_folder` where our stand-in for the docker plugin does, where no other can be had.
    """

    executable: Path
    origin: Literal["path", "download", "built"]
    plugins: Literal["official", "stand-in"]
    reasons: tuple[str, ...] = ()
    plugin_folder: Path | None = None
    docker_folder: Path | None = None


def in_cache(home: Path, reasons: list[str]) -> PulumiCli | None:
    """Return the finished CLI in the cache, with `reasons` and why it was made as it was."""
    folder = home / PULUMI_VERSION
    executable = folder / "pulumi"
    try:
        facts = json.loads((folder / FINISHED).read_text())
        found = PulumiCli(
            executable, facts["origin"], facts["plugins"], (*reasons, *facts["reasons"])
        )
        complete = executable.stat().st_size == facts["size"]
    except (OSError, ValueError, KeyError):
        return None
    if not complete:
        return None
    if found.plugins == "stand-in":
        put_stand_ins(folder)
    return found


def obtain(
    cache: Path, environment: Mapping[str, str], reasons: list[str], report: Report
) -> PulumiCli:
    """Download the CLI into the cache, or build it there.

    It is made under a temporary name and renamed, so what is interrupted never looks finished.
    """
    home = cache / "pulumi"
    for remains in home.glob(".partial-*"):
        shutil.rmtree(remains, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix=".partial-", dir=home))
    draft.chmod(0o755)
    made = PulumiCli(home / PULUMI_VERSION / "pulumi", "download", "official")
    try:
        if refusal := _download(draft, environment, report):
            reason = f"no official download: {refusal}"
            report(f"  {reason}")
            made = replace(made, origin="built", plugins="stand-in", reasons=(reason,))
            _build(draft, cache, environment, report)
        size = (draft / "pulumi").stat().st_size
        facts = {"origin": made.origin, "plugins": made.plugins, "reasons": made.reasons}
        (draft / FINISHED).write_text(json.dumps({**facts, "size": size}))
        shutil.rmtree(home / PULUMI_VERSION, ignore_errors=True)
        draft.rename(home / PULUMI_VERSION)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    report(f"  Pulumi {PULUMI_VERSION} is ready, cached in {home}")
    return replace(made, reasons=(*reasons, *made.reasons))


def _download(folder: Path, environment: Mapping[str, str], report: Report) -> str:
    """Fetch the official CLI into `folder`; return why it cannot be had, or nothing."""
    if environment.get("LETTA_OPS_PULUMI_DOWNLOAD") == "0":
        return "switched off by LETTA_OPS_PULUMI_DOWNLOAD=0"
    try:
        download_pulumi(PULUMI_VERSION, folder, report)
    except DownloadError as failure:
        return str(failure)
    return ""


def _build(folder: Path, cache: Path, environment: Mapping[str, str], report: Report) -> None:
    if not (tools_folder() / "go.mod").is_file():
        message = (
            f"Pulumi {PULUMI_VERSION} can neither be downloaded nor built: there is no checkout"
        )
        raise LettaOpsError("pulumi-cli", message, HINT)
    put_stand_ins(folder)
    report(
        "  building it from tools/go.mod: about 4 minutes on 2 cores, once;"
        f" cached in {cache / 'pulumi'}"
    )
    build_tool(PULUMI, folder / "pulumi", cache, environment, report)


def put_stand_ins(folder: Path, names: Sequence[str] = STAND_INS) -> None:
    """Copy the stand-in plugins to `folder`, unless it has these very ones already."""
    source = tools_folder() / "pulumi"
    if not source.is_dir():
        if all((folder / name).is_file() for name in names):
            return
        message = f"Pulumi's plugin {names[0]} is missing, and there is no checkout to take it from"
        raise LettaOpsError("pulumi-cli", message, HINT)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        content = (source / name).read_bytes()
        if target.is_file() and target.read_bytes() == content:
            continue
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        draft.write_bytes(content)
        draft.chmod(0o644 if name.endswith(".py") else 0o755)
        draft.replace(target)
