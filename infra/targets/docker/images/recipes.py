"""The images of the docker target: which ones there are, what they are called, how they are built."""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from infra.embedded.release import (
    BUILD_REQUIREMENTS,
    EXTRAS,
    NEEDS_COMPILER,
    PIP,
    Network,
    export_requirements,
    fetch,
    unpack,
)
from infra.errors import LettaOpsError
from infra.files import held, made_once
from infra.process import Report
from infra.sensitive import Sensitive
from infra.stack.keys import By, File, Secret, Section, setting
from infra.stack.locations import cache_folder
from infra.stack.releases import RELEASES, Release
from infra.targets.docker.engine.client import engine, find_image, own_containers
from infra.targets.docker.images.engine_build import SILENCE_SECONDS, ensure_base, run_build
from infra.targets.docker.names import LABEL_BASE, LABEL_INSTALLED, LABEL_PACKAGES

if TYPE_CHECKING:
    from docker import DockerClient

NAMES = ("postgres", "letta", "proxy", "redis")
DEFAULT_BASE = (
    "debian:trixie-slim@sha256:d7e12182ce18b85b93007c1dedf31f2d29e01ccf3182cc4017c709b6259bc132"
)

FOLDER = Path(__file__).parent
EMBEDDED = Path(__file__).parents[3] / "embedded"
RECORD = "/usr/share/letta-ops/packages"  # in an image
SCRIPTS = (  # of ours, run in the server's image
    EMBEDDED / "launch.py",
    EMBEDDED / "fake_model.py",
    FOLDER / "letta" / "healthcheck.py",
)
# Debian's packages can't be pinned, since its archive keeps only the newest. So every image is built with
# those of one day, which are recorded in it; a later day here, or as `image.packages`, is another image.
PACKAGES = "2026-11-27"
VERSIONS = {"postgres": "17", "proxy": "1.26", "redis": "8"}  # letta's is its release


def _packages(text: str) -> str:
    with suppress(ValueError):
        if dt.date.fromisoformat(text).isoformat() == text:
            return max(text, PACKAGES)
    raise ValueError(f"must be a day like 2026-11-27, not {text!r}")


class BuildSettings(Section):
    """How images are built on this machine. Only `base` and `packages` show in the result.

    What is not set is taken from the environment: SSL_CERT_FILE, UV_DEFAULT_INDEX, HTTPS_PROXY...
    """

    table: ClassVar[str] = "image."

    base: str = setting(DEFAULT_BASE, "the image below all of ours: Debian's")
    packages: Annotated[str, By(_packages)] = setting(
        PACKAGES, "Debian's packages are those of this day or later"
    )
    ca_bundle: File | None = setting(None, "certificates to trust in builds, in PEM form")
    proxy: Annotated[Sensitive | None, Secret(plain=True)] = setting(
        None, "for http and https in builds; may hold a password"
    )
    index_url: Annotated[Sensitive | None, Secret(plain=True)] = setting(
        None, "of Python packages; may hold a password"
    )
    apt_mirror: str | None = setting(None, "of Debian's packages")

    @property
    def network(self) -> Network:
        """The same for what is downloaded outside of the build; unset ones as the environment says."""
        found = Network.of_environment()
        return Network(
            self.index_url or found.index_url, self.ca_bundle or found.ca_bundle, self.proxy
        )


def tag(name: str, release_version: str, settings: BuildSettings) -> str:
    """Return what the image is called: `letta-ops/<name>:<version>-<digest of what it is made of>`.

    What only says how to reach the network is no part of it: the result is the same.
    """
    digest = hashlib.sha256()
    for path, content in sorted(_files(name, settings).items()):
        digest.update(f"{path}\0{len(content)}\0".encode() + content)
    version = _version(name, release_version)
    parts = {"base": settings.base, "version": version}
    if name == "letta":
        parts["sdist"] = RELEASES[release_version].sdist_sha256
        parts["requirements"] = " ".join((*EXTRAS, "-", NEEDS_COMPILER))
    digest.update(json.dumps(parts, sort_keys=True).encode())
    return f"letta-ops/{name}:{version}-{digest.hexdigest()[:12]}"


def build(name: str, release: Release, settings: BuildSettings, report: Report) -> str:
    """Build the image `name` unless the engine has it, and return its tag.

    Raises LettaOpsError: `image-missing` (the base), `image-build-failed`, `disk-full`, `ca-bundle`,
    what fetching the release raises, and those of `infra.targets.docker.engine.client`.
    """
    wanted = tag(name, release.version, settings)
    with engine(SILENCE_SECONDS) as client:
        if find_image(client, wanted) is not None:
            return wanted
        with held(cache_folder() / "images.lock", f"the build of {wanted}", report):
            if find_image(client, wanted) is None:  # somebody else has just built it
                secrets = settings.network.secrets
                ensure_base(client, settings.base, secrets, report)
                files = {**_files(name, settings), **_reach(settings)}
                if name == "letta":
                    files |= _release_files(release, settings, report)
                report(f"building the image {wanted}")
                arguments = _arguments(name, release.version, settings)
                draft = f"{wanted}-draft"
                run_build(client, draft, files, arguments, secrets, report)
                labels = {**_packages_in(client, draft), LABEL_BASE: settings.base}
                run_build(client, wanted, _labelled(draft, labels), {}, secrets, report)
                client.images.remove(draft, noprune=True)
                report(f"built the image {wanted}")
    return wanted


def installed_packages(prefix: str) -> dict[str, str]:
    """Return, of each image that the stack's containers run, the packages in it: `name=version ...`.

    Raises LettaOpsError: those of `infra.targets.docker.engine.client`.
    """
    with engine() as client:
        images = {str(each.attrs["Image"]) for each in own_containers(client, prefix)}
        found = [image for name in images if (image := find_image(client, name)) is not None]
    return {
        (*image.tags, str(image.id))[0]: image.labels[LABEL_PACKAGES]
        for image in found
        if LABEL_PACKAGES in image.labels
    }


def _packages_in(client: DockerClient, image: str) -> dict[str, str]:
    """What build/finish has written down, as labels."""
    container = client.containers.create(image, use_config_proxy=False)
    try:
        chunks, _ = container.get_archive(RECORD)
    finally:
        container.remove()
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        file = archive.extractfile(Path(RECORD).name)
        assert file is not None  # noqa: S101  # for the type checker: it is a file
        installed, *packages = file.read().decode().split()
    return {LABEL_INSTALLED: installed, LABEL_PACKAGES: " ".join(packages)}


def _labelled(image: str, labels: Mapping[str, str]) -> dict[str, bytes]:
    """The build of the same image with labels that are known only now."""
    pairs = " ".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
    return {"Dockerfile": f"FROM {image}\nLABEL {pairs}\n".encode()}


def _version(name: str, release_version: str) -> str:
    return VERSIONS.get(name, release_version)


def _files(name: str, settings: BuildSettings) -> dict[str, bytes]:
    """The files of the build that this repository holds, by their path in the build's context."""
    found = {f"build/{path.name}": path.read_bytes() for path in (FOLDER / "build").iterdir()}
    # So that the engine's cache doesn't bring the packages of another day.
    found["build/packages"] = settings.packages.encode()
    folder = FOLDER / name
    found["Dockerfile"] = (folder / "Dockerfile").read_bytes()
    if name == "letta":
        found |= {f"scripts/{path.name}": path.read_bytes() for path in SCRIPTS}
        found |= {
            f"release/{part}": (folder / part).read_bytes() for part in ("install-letta", "uv.txt")
        }
        found["release/build-requirements.txt"] = BUILD_REQUIREMENTS.read_bytes()
        found["release/pip.txt"] = PIP.read_bytes()
    else:
        for path in [*folder.glob("bin/*"), *folder.glob("lib/*")]:
            found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    return found


def _reach(settings: BuildSettings) -> dict[str, bytes]:
    """What the first stages need to reach the network; the last stage never sees these files."""
    bundle = settings.network.ca_bundle
    reason = None
    try:
        authority = bundle.read_bytes() if bundle else b""
        if bundle and b"-----BEGIN CERTIFICATE-----" not in authority:
            reason = "it holds no certificate in PEM form"
    except OSError as error:
        reason = error.strerror
    if reason:
        raise LettaOpsError(
            "ca-bundle",
            f"the certificates {bundle} cannot be used for building images: {reason}",
            "let image.ca_bundle (or SSL_CERT_FILE) name a file with certificates in PEM form",
        )
    return {
        "build/ca.pem": authority,
        "build/apt-mirror": (settings.apt_mirror or "").encode(),
    }


def _release_files(release: Release, settings: BuildSettings, report: Report) -> dict[str, bytes]:
    """The release's source distribution and its locked requirements, fetched once into the cache."""
    name = f"letta-{release.version}.tar.gz"

    def fill(folder: Path) -> None:
        report(f"Letta {release.version}: fetching the source distribution (8 MB)")
        unpack(fetch(release, folder, settings.network), folder / "source")
        exported = export_requirements(folder / "source", Path(sys.executable))
        (folder / "requirements.txt").write_text(exported)
        shutil.rmtree(folder / "source")

    folder = made_once(
        cache_folder() / "images" / f"letta-{release.version}-{release.sdist_sha256[:8]}",
        "another build of Letta's image", report, fill,
    )  # fmt: skip
    return {
        f"release/{name}": (folder / name).read_bytes(),
        "release/SHA256SUMS": f"{release.sdist_sha256}  {name}\n".encode(),
        "release/requirements.txt": (folder / "requirements.txt").read_bytes(),
    }


def _arguments(name: str, release_version: str, settings: BuildSettings) -> dict[str, str]:
    """The build's arguments. Docker keeps those of proxies out of the image and its history."""
    found = {"BASE": settings.base, "VERSION": _version(name, release_version)}
    for variable in ("http_proxy", "https_proxy", "no_proxy"):
        value = os.environ.get(variable.upper()) or os.environ.get(variable)
        if settings.proxy:
            value = None if variable == "no_proxy" else settings.proxy.reveal()
        if value:
            found[variable] = found[variable.upper()] = value
    if index := settings.network.index_url:
        found["FTP_PROXY"] = index.reveal()  # letta/install-letta says why
    return found
