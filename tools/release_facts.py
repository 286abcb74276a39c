"""Print what `infra/stack/releases.py` says of a release: looked up on the index, and made to migrate.

    .venv/bin/python tools/release_facts.py 0.15.1

The release is installed in the cache, and its migrations run on a throw-away Postgres.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import textwrap
from pathlib import Path

from pypi_simple import PyPISimple

from infra.embedded.alembic import upgrade
from infra.embedded.throwaway import throwaway_folder, throwaway_parent
from infra.embedded.throwaway_postgres import start_postgres
from infra.embedded.throwaway_server import install_release
from infra.stack.deployment import DATABASE_NAME
from infra.stack.releases import Release

TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S') ORDER BY 1
"""
TYPES = """
SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'e' ORDER BY 1
"""


def main() -> None:
    (version,) = sys.argv[1:]
    sha256, python, published = _on_index(version)
    release = Release(version, sha256, "", frozenset(), frozenset())
    with throwaway_folder(throwaway_parent(None), _tell) as folder:
        installed = install_release(folder, release, _tell)
        postgres = start_postgres(folder)
        with postgres.access.connect(postgres.access.maintenance) as link:
            owner = postgres.database.owner.name
            link.execute(f"CREATE DATABASE {DATABASE_NAME} OWNER {owner}")
        with postgres.access.connect(DATABASE_NAME) as link:
            link.execute("CREATE EXTENSION vector")
        upgrade(folder, installed, postgres.database, "head", _tell, "")
        with postgres.access.connect(DATABASE_NAME) as link:
            (head,) = link.execute("SELECT version_num FROM alembic_version").fetchone() or ("",)
            tables = " ".join(name for (name,) in link.execute(TABLES))
            types = " ".join(name for (name,) in link.execute(TYPES))
    print(f"version {version}\nsdist_sha256 {sha256}\nalembic_head {head}")
    print(f"python {python}\npublished {published}\ntypes {types}\ntables")
    print(textwrap.indent(textwrap.fill(tables, 88), "    "))


def _on_index(version: str) -> tuple[str, str, str]:
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL")
    with PyPISimple(index) if index else PyPISimple() as client:
        page = client.get_project_page("letta")
        name = f"letta-{version}.tar.gz"
        package = next(each for each in page.packages if each.filename == name)
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / name
            client.download_package(package, archive, verify=False)
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    time = package.upload_time
    return digest, package.requires_python or "", f"{time:%Y-%m-%d}" if time else ""


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
