"""The Pulumi CLI that the contract tests run: whatever this machine can have."""

from __future__ import annotations

import sys

import pytest

from infra.engine.cli import find_pulumi
from infra.engine.cli_cache import PulumiCli


@pytest.fixture(scope="session")
def cli() -> PulumiCli:
    return find_pulumi(lambda line: print(line, file=sys.stderr))
