"""See to a Docker engine and a base image for the tests. Standard library only.

    python tools/docker_engine.py ensure

Prints `ready` when an engine answers and has the base image, `left-out` when the tests that need
them must be left out; why, and everything it does, goes to stderr. Exit code 0 either way. It
installs and starts an engine only as root on Debian or Ubuntu, where none answers. That engine keeps
running.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode, urlsplit

BASE = "letta-ops-base:trixie"
# The same as DEFAULT_BASE in infra/targets/docker/images/recipes.py, which needs an installed project.
PINNED = (
    "debian:trixie-slim@sha256:d7e12182ce18b85b93007c1dedf31f2d29e01ccf3182cc4017c709b6259bc132"
)
SUITE = "trixie"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCE_DATE_EPOCH = "1754697600"  # the release of trixie: files of the base are not newer

START_SECONDS = 60
PULL_SECONDS = 60
SILENCE_SECONDS = 10  # of a registry; a network without one answers late or never


class LeftOutError(Exception):
    """Why the tests that need an engine are left out, and the next step."""

    def __init__(self, reason: str, following: str) -> None:
        super().__init__(f"Docker tests are left out: {reason}; next: {following}")


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["ensure"]):
        say("usage: python tools/docker_engine.py ensure")
        return 2
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    try:
        ensure_engine()
        ensure_base()
    except LeftOutError as error:
        say(str(error))
        print("left-out")
    else:
        print("ready")
    return 0


def ensure_engine() -> None:
    if answers():
        say(f"a Docker engine answers at {address()}")
        return
    path = urlsplit(address()).path
    if address().startswith("unix:") and Path(path).exists() and not os.access(path, os.W_OK):
        raise LeftOutError(
            f"this user may not use the engine at {address()}",
            "add the user to the group `docker` and log in again, or run the tests as root",
        )
    if os.environ.get("DOCKER_HOST"):
        raise LeftOutError(f"no engine answers at {address()}", "start it, or unset DOCKER_HOST")
    if not on_debian_as_root():
        raise LeftOutError(
            "no engine answers, and this is not root on Debian or Ubuntu",
            "install and start Docker, let this user use it, then run the tests again",
        )
    install("docker.io", "dockerd")
    if shutil.which("docker") is None:
        install("docker-cli", "docker")  # from Debian 13 on a package of its own
    install("iptables", "iptables")
    install("iproute2", "ip")
    if not answers():  # installing may have started it
        start()


def start() -> None:
    """Start dockerd in a session of its own; where it can't, change what it complains about."""
    log = cache_folder() / "dockerd.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + START_SECONDS
    tried: set[str] = set()
    options: list[str] = []
    while True:
        say(f"starting dockerd {' '.join([*options, ''])}(its log: {log})")
        with log.open("wb") as sink:
            daemon = subprocess.Popen(
                ["dockerd", *options],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        while daemon.poll() is None and time.monotonic() < deadline:
            if answers():
                say(f"dockerd runs (pid {daemon.pid}) and keeps running")
                return
            time.sleep(0.3)
        if daemon.poll() is None:
            daemon.terminate()
            raise LeftOutError(f"dockerd did not answer in {START_SECONDS} s", f"read {log}")
        words = log.read_text(errors="replace")
        remedy = remedy_for(words, tried)
        if remedy is None:
            raise LeftOutError(f"dockerd ends at once: {last_line(words)}", f"read {log}")
        tried.add(remedy)
        if remedy == "legacy":
            say("dockerd can't use nftables here: choosing iptables-legacy")
            for name in ("iptables", "ip6tables"):
                quietly("update-alternatives", "--set", name, f"/usr/sbin/{name}-legacy")
        else:
            say("dockerd can't use overlay file systems here: choosing vfs, which is slow")
            options = ["--storage-driver=vfs"]


def remedy_for(words: str, tried: set[str]) -> str | None:
    """Decide from the log of a dockerd that has ended: `legacy` (iptables), `vfs`, or nothing."""
    text = words.lower()
    if "legacy" not in tried and ("iptables" in text or "nf_tables" in text):
        return "legacy"
    if "vfs" not in tried and any(word in text for word in ("overlay", "graphdriver", "driver")):
        return "vfs"
    return None


def ensure_base() -> None:
    """Make the image that the tests build on, unless it is there."""
    if has(BASE):
        say(f"the base image {BASE} is there")
        return
    if has(PINNED) or pull():
        repository, _, tag = BASE.partition(":")
        status, _ = request("POST", f"/images/{PINNED}/tag", {"repo": repository, "tag": tag})
        if status == 201:
            say(f"{BASE} is {PINNED}")
            return
    bootstrap()


def pull() -> bool:
    """Pull the pinned image if a registry answers soon."""
    say(f"pulling {PINNED}")
    name, _, digest = PINNED.partition("@")
    deadline = time.monotonic() + PULL_SECONDS
    query = urlencode({"fromImage": name.partition(":")[0], "tag": digest})
    try:
        with connection(SILENCE_SECONDS) as link:
            link.request("POST", f"/images/create?{query}")
            answer = link.getresponse()
            for line in answer:
                if b'"error"' in line or time.monotonic() > deadline:
                    break
    except (OSError, http.client.HTTPException):
        pass  # what counts is whether it is there now
    if has(PINNED):
        return True
    say("it can't be pulled here")
    return False


def bootstrap() -> None:
    """Make the base from Debian's packages: the same contents, without a registry."""
    following = f"load a Debian 13 image and call it {BASE}, or name one by LETTA_OPS_TEST_BASE"
    if on_debian_as_root():
        install("mmdebstrap", "mmdebstrap")
        install("debian-archive-keyring", KEYRING)
    elif shutil.which("mmdebstrap") is None:
        raise LeftOutError(
            f"no registry has {PINNED} for us, and there is no mmdebstrap", following
        )
    say(f"making {BASE} from Debian's packages (about half a minute)")
    with tempfile.TemporaryDirectory(prefix="letta-ops-base-") as folder:
        archive = Path(folder) / "base.tar"
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates",
             SUITE, str(archive)],
            env={**os.environ, "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH},
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise LeftOutError(f"mmdebstrap has failed: {last_line(done.stderr)}", following)
        repository, _, tag = BASE.partition(":")
        with archive.open("rb") as source, connection(600) as link:
            query = urlencode({"fromSrc": "-", "repo": repository, "tag": tag})
            length = str(archive.stat().st_size)
            link.request(
                "POST", f"/images/create?{query}", body=source, headers={"Content-Length": length}
            )
            words = link.getresponse().read().decode(errors="replace")
    if not has(BASE):
        raise LeftOutError(f"the engine did not take the base image: {last_line(words)}", following)
    say(f"made {BASE}")


def install(package: str, proof: str) -> None:
    """Install a Debian package unless the program (or file) that it brings is there."""
    if Path(proof).exists() if proof.startswith("/") else shutil.which(proof):
        return
    say(f"installing the package {package}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (
        ["apt-get", "-qq", "update"],
        ["apt-get", "-qq", "--yes", "--no-install-recommends", "install", package],
    ):
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    if done.returncode != 0:
        raise LeftOutError(
            f"the package {package} cannot be installed: {last_line(done.stderr)}",
            f"install {package} yourself",
        )


def on_debian_as_root() -> bool:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    with contextlib.suppress(OSError):
        text = Path("/etc/os-release").read_text()
        names = [line for line in text.splitlines() if line.startswith(("ID=", "ID_LIKE="))]
        return any(word in line for line in names for word in ("debian", "ubuntu"))
    return False


def cache_folder() -> Path:
    """As in infra/stack/locations.py, for root."""
    return Path(os.environ.get("LETTA_OPS_CACHE") or "/var/cache/letta-ops")


def address() -> str:
    return os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"


def answers() -> bool:
    if urlsplit(address()).scheme not in ("unix", "tcp", "http"):
        return quietly("docker", "version")  # ssh and the like: only that program can
    return request("GET", "/_ping")[0] == 200


def has(image: str) -> bool:
    if urlsplit(address()).scheme not in ("unix", "tcp", "http"):
        return quietly("docker", "image", "inspect", image)
    return request("GET", f"/images/{image}/json")[0] == 200


def request(method: str, path: str, query: dict[str, str] | None = None) -> tuple[int, str]:
    """Ask the engine; status 0 when there is none that this user may ask."""
    try:
        with connection(SILENCE_SECONDS) as link:
            link.request(method, path + (f"?{urlencode(query)}" if query else ""))
            answer = link.getresponse()
            return answer.status, answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


@contextlib.contextmanager
def connection(timeout: float) -> Iterator[http.client.HTTPConnection]:
    parts = urlsplit(address())
    if parts.scheme == "unix":
        link = http.client.HTTPConnection("localhost", timeout=timeout)
        link.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        link.sock.settimeout(timeout)
        link.sock.connect(parts.path)
    else:
        link = http.client.HTTPConnection(parts.hostname or "", parts.port or 2375, timeout=timeout)
    with contextlib.closing(link):
        yield link


def quietly(*words: str) -> bool:
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def last_line(text: str) -> str:
    """The last line of a program's words, or what it says of an error in JSON."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "it says nothing"
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(lines[-1]).get("error", lines[-1]))
    return lines[-1][:300]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
