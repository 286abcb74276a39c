"""Choosing the Go that builds our pinned tools. Nothing is built here."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.pulumi_cli.go_tools import find_go


def go(folder: Path, version: str) -> Path:
    """A `go` that only knows its version."""
    folder.mkdir()
    path = folder / "go"
    path.write_text(f"#!/bin/sh\necho go version {version} linux/amd64\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["go1.25.11", "go1.26", "go1.26rc1", "go1.100.0"])
def test_the_first_go_on_path_that_is_new_enough_for_the_module_is_used(
    tmp_path: Path, version: str
) -> None:
    old = go(tmp_path / "old", "go1.25.10")
    new = go(tmp_path / "new", version)
    lines: list[str] = []
    environment = {"PATH": f"{old.parent}:{tmp_path / 'absent'}:{new.parent}"}
    assert find_go(tmp_path, environment, lines.append) == new
    assert lines == [f"  {old} is Go 1.25.10, and Go 1.25.11 is needed"]
