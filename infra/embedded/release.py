"""Installing a Letta release: its source distribution, its locked requirements, its venv."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.errors import LettaOpsError
from infra.files import is_made, made_once
from infra.process import Report, command, follow, run
from infra.sensitive import Sensitive, redact
from infra.stack.releases import Release

BUILD_REQUIREMENTS = Path(__file__).with_suffix(".build.txt")  # of the sdist's build backend
PIP = Path(__file__).with_suffix(
    ".pip.txt"
)  # no release has it, and it installs what tools require
NEEDS_COMPILER = "psycopg2"  # the lock has psycopg2-binary too, which is the same, compiled
EXTRAS = ("server", "postgres", "redis", "sqlite")
HINT = "look at the lines above, check the network and the free disk space, then run this again"


@dataclass(frozen=True)
class Network:
    """How packages are reached where that is not the plain way; the URLs may hold passwords."""

    index_url: Sensitive | None = None
    ca_bundle: Path | None = None
    proxy: Sensitive | None = None

    @classmethod
    def of_environment(cls) -> Network:
        index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("PIP_INDEX_URL")
        bundle = os.environ.get("SSL_CERT_FILE")
        return cls(Sensitive(index) if index else None, Path(bundle) if bundle else None)

    @property
    def secrets(self) -> tuple[Sensitive, ...]:
        """The URLs and the passwords in them, for redaction."""
        urls = [url for url in (self.index_url, self.proxy) if url]
        passwords = [urlsplit(url.reveal()).password for url in urls]
        return (*urls, *(Sensitive(text) for text in passwords if text))


@dataclass(frozen=True)
class InstalledRelease:
    """A release on this machine: its venv, and its unpacked sdist (which holds the migrations)."""

    release: Release
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def knows(self, revision: str) -> bool:
        """Whether one of the release's migrations has this id."""
        versions = self.source / "alembic" / "versions"
        return any(f'"{revision}"' in path.read_text() for path in versions.glob("*.py"))

    def is_complete(self) -> bool:
        return is_made(self.folder) and self.python.exists()


def installed(release: Release, cache: Path, python: Path) -> InstalledRelease:
    """Say where `release` is or would be; venvs are told apart by the interpreter below them."""
    digest = hashlib.sha256(f"{os.path.realpath(python)}\0{PIP.read_text()}".encode()).hexdigest()[
        :8
    ]
    name = f"letta-{release.version}-{release.sdist_sha256[:8]}-{digest}"
    return InstalledRelease(release, cache / "releases" / name)


def install(release: Release, cache: Path, python: Path, report: Report) -> InstalledRelease:
    """Install `release` for the interpreter `python` below `cache`, once; later calls find it there.

    The sdist is checked against its hash, the requirements are those of its own lock, each with
    its hash.
    """
    target = installed(release, cache, python)

    def fill(folder: Path) -> None:
        report(f"Letta {release.version}: fetching the source distribution (8 MB)")
        archive = fetch(release, folder)
        unpack(archive, target.source)
        _install_requirements(target, python, archive, report)
        archive.unlink()
        report(f"Letta {release.version}: installed, cached in {folder}")

    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o755)
    made_once(target.folder, "another installation of Letta", report, fill)
    return target


def source_of(release: Release, cache: Path, report: Report) -> Path:
    """The unpacked sdist of `release`: of an installation, or fetched alone (8 MB), once."""
    pattern = f"letta-{release.version}-{release.sdist_sha256[:8]}"
    for there in sorted((cache / "releases").glob(f"{pattern}-*/")):
        if is_made(there) and (there / "source").is_dir():
            return there / "source"

    def fill(folder: Path) -> None:
        report(f"Letta {release.version}: fetching the source distribution (8 MB)")
        archive = fetch(release, folder)
        unpack(archive, folder / "source")
        archive.unlink()

    cache.mkdir(parents=True, exist_ok=True)
    made_once(cache / "sources" / pattern, "another command", report, fill)
    return cache / "sources" / pattern / "source"


def fetch(release: Release, folder: Path, network: Network | None = None) -> Path:
    """Download the source distribution of `release` into `folder` and return its path.

    Raises LettaOpsError: `download-failed`, or `hash-mismatch` when it is not the pinned file.
    """
    import requests
    from pypi_simple import PyPISimple

    network = network or Network.of_environment()
    name = f"letta-{release.version}.tar.gz"
    session = requests.Session()
    if network.ca_bundle:
        session.verify = str(network.ca_bundle)
    if network.proxy:
        session.proxies = dict.fromkeys(("http", "https"), network.proxy.reveal())
    index = network.index_url.reveal() if network.index_url else None
    try:
        with PyPISimple(index, session=session) if index else PyPISimple(session=session) as client:
            page = client.get_project_page("letta", timeout=(10, 60))
            package = next(item for item in page.packages if item.filename == name)
            client.download_package(package, folder / name, verify=False, timeout=60)
    except StopIteration:
        reason = f"the package index has no {name}"
    except Exception as error:  # noqa: BLE001  # the client raises its own, requests' and urllib3's errors
        reason = redact(f"{name} could not be downloaded: {error}", network.secrets)
    else:
        return _verified(folder / name, release)
    raise LettaOpsError("download-failed", reason, HINT)


def export_requirements(source: Path, python: Path) -> str:
    """Return what the lock of the unpacked `source` says, as requirements with their hashes."""
    from uv import find_uv_bin

    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    # The sdist holds a .python-version that derails interpreter shims: the path is always given.
    job = command(find_uv_bin(), "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project",
                  "--no-header", *extras, "--no-emit-package", NEEDS_COMPILER,
                  "--python", python, directory=source)  # fmt: skip
    return run(job, code="install-failed", hint=HINT, what="reading the lock of Letta").stdout


def _verified(archive: Path, release: Release) -> Path:
    with archive.open("rb") as source:
        found = hashlib.file_digest(source, "sha256").hexdigest()
    if found != release.sdist_sha256:
        archive.unlink()
        raise LettaOpsError(
            "hash-mismatch",
            f"{archive.name} has SHA-256 {found}, pinned is {release.sdist_sha256}",
            "the package index serves another file under this name: do not use it, find out why",
        )
    return archive


def unpack(archive: Path, target: Path) -> None:
    """Unpack a source distribution: `target` becomes its top folder."""
    import tarfile

    draft = target.with_name("unpacking")
    with tarfile.open(archive) as source:
        # Debian 12's Python 3.11.2 has no filters yet; the archive's hash is pinned either way.
        if hasattr(tarfile, "data_filter"):
            source.extraction_filter = tarfile.data_filter
        source.extractall(draft)  # noqa: S202  # see above
    (top,) = draft.iterdir()
    top.rename(target)
    draft.rmdir()


def _install_requirements(
    target: InstalledRelease, python: Path, archive: Path, report: Report
) -> None:
    from uv import find_uv_bin

    uv = find_uv_bin()
    what = f"installing Letta {target.release.version}"
    settings: dict[str, Any] = {"code": "install-failed", "hint": HINT, "what": what}
    exported = export_requirements(target.source, python)
    requirements = target.folder / "requirements.txt"
    requirements.write_text(exported)
    count = sum("==" in line for line in exported.splitlines())
    report(f"{what}: {count} locked packages, 1.1 GB on disk, about a minute")
    run(command(uv, "venv", "--quiet", "--allow-existing", "--python", python,
                target.folder / "venv", umask=0o022), **settings)  # fmt: skip

    def on_line(line: str) -> None:
        if not line.startswith(" +"):  # one for each package
            report(f"{what}: {line.strip()}")

    # The account of the services can't write here: without bytecode each start compiles it anew.
    pip = (uv, "pip", "install", "--compile-bytecode", "--python", target.python,
           "--build-constraints", BUILD_REQUIREMENTS)  # fmt: skip
    locked = ("--require-hashes", "-r", requirements, "-r", PIP)
    follow(command(*pip, *locked, umask=0o022), on_line, **settings)
    follow(command(*pip, "--no-deps", archive, umask=0o022), on_line, **settings)
