"""A Pulumi project of its own, run by the real CLI, for the contract tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.pulumi_cli.cli import pulumi_environment
from infra.pulumi_cli.cli_cache import PulumiCli
from infra.pulumi_cli.passphrase import ensure_passphrase

FOREIGN = ("PULUMI_", "LETTA_OPS_")


@dataclass
class Project:
    """A Pulumi project with its own state and one stack."""

    root: Path
    cli: PulumiCli
    environment: dict[str, str]

    def argv(self, *words: str) -> list[str]:
        return [str(self.cli.executable), *words, "--non-interactive", "--stack", "one"]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words),
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    def ok(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def set(self, key: str, value: str) -> None:
        self.ok("config", "set", key, value)

    def preview(self, *flags: str) -> dict[str, str]:
        """What a preview would change: the names of resources, and what would be done to them."""
        done = subprocess.run(
            self.argv("preview", "--json", *flags),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        steps = json.loads(done.stdout)["steps"]
        found = {step["urn"].split("::")[-1]: step["op"] for step in steps}
        return {name: done for name, done in found.items() if done not in ("same", "refresh")}

    def replacement(self) -> list[str]:
        """The steps of a previewed replacement, in their order."""
        shown = self.ok("preview", "--diff", "--show-replacement-steps")
        return re.findall(r"\((delete-replaced|create-replacement)\)", shown)

    def resources(self) -> dict[str, dict[str, Any]]:
        """What the state holds, by the resources' names; secrets are encrypted."""
        deployment = json.loads(self.ok("stack", "export"))["deployment"]
        return {each["urn"].split("::")[-1]: each for each in deployment.get("resources", [])}


def new_project(
    folder: Path, cli: PulumiCli, program: Mapping[str, str], home: Path | None
) -> Project:
    """A project with a stack. The state folder's name has a space, which a URL must survive.

    `program` has the files of its program; `home` is Pulumi's own folder, None that of the user.
    """
    root, state = folder / "project", folder / "the state"
    (root / "program").mkdir(parents=True)
    (root / "Pulumi.yaml").write_text("name: contract\nmain: program\nruntime: python\n")
    for name, text in program.items():
        (root / "program" / name).write_text(text)
    ensure_passphrase(state)
    ours = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    kept = os.environ.get("PULUMI_HOME") if home is None else str(home)
    if kept:
        ours["PULUMI_HOME"] = kept
    project = Project(root, cli, pulumi_environment(state, cli, ours))
    project.ok("stack", "init")
    return project


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds:.0f} s"
        time.sleep(0.05)
