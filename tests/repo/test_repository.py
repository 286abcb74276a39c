"""Rules about the repository itself that no linter knows."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("infra", "backups", "healthchecks", "ops_cli")


def tracked(*patterns: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / line for line in listing.stdout.splitlines()]


def test_no_module_in_infra_has_a_name_of_the_standard_library() -> None:
    """Nor of a package: where Pulumi puts the program's folder first on sys.path, it would hide that."""
    names = {path.stem for path in (ROOT / "infra").iterdir()} - {"__init__", "__main__"}
    assert not names & sys.stdlib_module_names
    assert not names & (importlib.metadata.packages_distributions().keys() - {"infra"})


def test_every_module_says_its_job_in_its_first_line() -> None:
    for path in tracked("*.py"):
        text = path.read_text()
        if text.strip():
            assert text.startswith(('"""', "#!")), path


def test_the_only_stacks_that_are_kept_here_are_the_examples() -> None:
    found = [path.name for path in tracked("infra/stacks")]
    assert sorted(found) == ["Pulumi.docker.yaml", "Pulumi.local.yaml", "schema.json"]


def test_the_lock_and_the_modules_pin_the_same_pulumi() -> None:
    from infra.pulumi_cli.cli_cache import PULUMI_VERSION

    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    (sdk,) = [package for package in locked if package["name"] == "pulumi"]
    assert sdk["version"] == PULUMI_VERSION
    assert f"pulumi/pkg/v3 v{PULUMI_VERSION}" in (ROOT / "tools" / "go.mod").read_text()


def test_no_path_of_a_machine_and_no_private_index_is_written_down() -> None:
    forbidden = re.compile(r"/root/|/home/\w+/|/work/|artifact.?registry", re.IGNORECASE)
    for path in tracked():
        if path.suffix in (".lock", ".sum", ".af") or path == Path(__file__):
            continue
        for line in path.read_text(errors="replace").splitlines():
            assert not forbidden.search(line), f"{path}: {line}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_in_the_wheel(package: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert package in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def test_links_between_documents_lead_somewhere() -> None:
    for path in tracked("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} -> {target}"


# What is no target, though it is called like one: where, and what it is.
NAMESAKES = {
    ("infra/pulumi_cli/go_tools.py", "local"): "a word of Go's GOTOOLCHAIN",
    ("infra/pulumi_cli/plugins.py", "docker"): "the name of Pulumi's plugin",
    ("ops_cli/invocation.py", "local"): "the name of the stack that is taken by default",
}


def test_nobody_outside_of_the_targets_names_one() -> None:
    """That is what the port is for: a further target is a folder, and a line in its list."""
    from infra.targets import OURS

    found = set()
    for path in tracked(*(f"{package}/**.py" for package in PACKAGES)):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("infra/targets/") or not path.exists():
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in (*OURS, "kubernetes"):
                found.add((name, node.value))
    assert found == NAMESAKES.keys()


def test_no_stack_file_has_the_salt_of_somebodys_passphrase() -> None:
    """A literal `pulumi up` writes one, as Pulumi does everywhere; nobody else's passphrase fits it."""
    for name in ("Pulumi.local.yaml", "Pulumi.docker.yaml"):
        assert "encryptionsalt" not in _committed(f"infra/stacks/{name}")


def _committed(path: str) -> str:
    """What whoever clones it gets, and not what a run of ours has written since."""
    words = ["git", "show", f"HEAD:{path}"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
