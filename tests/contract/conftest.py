"""What the contract tests run against: a Pulumi CLI that this machine can have, a real S3 server."""

from __future__ import annotations

import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.database.administration import DatabaseAccess
from infra.embedded.throwaway import throwaway_folder
from infra.embedded.throwaway_postgres import start_postgres
from infra.pulumi_cli.cli import find_pulumi
from infra.pulumi_cli.cli_cache import PulumiCli
from tests.contract.s3_server import S3Server, running_s3_server


@pytest.fixture(scope="session")
def cli() -> PulumiCli:
    return find_pulumi(lambda line: print(line, file=sys.stderr))


@pytest.fixture(scope="session")
def postgres() -> Iterator[DatabaseAccess]:
    """A real Postgres with pgvector, as its administrator."""
    parent = Path(tempfile.mkdtemp(prefix="letta-ops-contract-"))
    parent.chmod(0o755)  # the server has an account of its own
    with throwaway_folder(parent, print) as folder:
        yield start_postgres(folder).access
    shutil.rmtree(parent)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3_server: S3Server) -> str:
    """The name of a new bucket."""
    return s3_server.make_bucket(f"bucket-{uuid.uuid4().hex[:12]}")
