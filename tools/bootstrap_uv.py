"""Find uv, or fetch it: prints the path of a uv that fits. Standard library only.

A machine that has nothing but Python and make may lack pip and venv too. uv.lock names uv's own
wheel and its SHA-256, so the wheel is fetched from there; where that place can't be reached (a
mirror is configured instead), pip and its configuration are tried.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".uv"
OLDEST = (0, 9)


def main() -> int:
    if not (3, 11) <= sys.version_info < (3, 14):
        have = platform.python_version()
        say(f"error: Python 3.11, 3.12 or 3.13 is needed, this is {have} ({sys.executable})")
        say("  next: install one, or name it: make PYTHON=/path/to/python3.12 ...")
        return 1
    for candidate in (shutil.which("uv"), HOME / "uv"):
        if candidate and fits(Path(candidate)):
            print(candidate)
            return 0
    say("uv is not here: fetching it into .uv (20 MB, once)")
    reasons = []
    for way in (from_lock, from_pip):
        try:
            way()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reasons.append(f"{way.__doc__}: {error}")
            continue
        if fits(HOME / "uv"):
            print(HOME / "uv")
            return 0
        reasons.append(f"{way.__doc__}: the program does not run here")
    say("error: uv cannot be had:")
    for reason in reasons:
        say(f"  - {reason}")
    say("  next: check the network and its proxy settings, or install uv yourself and try again")
    return 1


def from_lock() -> None:
    """the wheel that uv.lock names"""
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    wheels = next(package for package in packages if package["name"] == "uv")["wheels"]
    wheel = next((wheel for wheel in wheels if suits(wheel["url"])), None)
    if wheel is None:
        raise ValueError(f"no wheel for {platform.system()} {platform.machine()}")
    with urllib.request.urlopen(wheel["url"], timeout=60) as answer:
        content = answer.read()
    if "sha256:" + hashlib.sha256(content).hexdigest() != wheel["hash"]:
        raise ValueError("the file that came has another SHA-256 than uv.lock says")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        install(archive.read(name))


def from_pip() -> None:
    """pip, with its own configuration"""
    folder = HOME / "pip"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "install", "--quiet", "--target", folder, f"uv>={OLDEST[0]}.{OLDEST[1]}"],
        check=True,
        stdout=sys.stderr,
    )
    install((folder / "bin" / "uv").read_bytes())


def suits(url: str) -> bool:
    """Whether a wheel is for this machine; glibc's and musl's loaders tell the two apart."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    name = url.rpartition("/")[2]
    if sys.platform == "darwin":
        return "macosx" in name and platform.machine() in name
    libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    return libc in name and f"_{machine}." in name


def install(content: bytes) -> None:
    HOME.mkdir(exist_ok=True)
    draft = HOME / f"uv.{os.getpid()}"
    draft.write_bytes(content)
    draft.chmod(0o755)
    draft.replace(HOME / "uv")


def fits(uv: Path) -> bool:
    try:
        answer = subprocess.run(  # noqa: PLW1510  # judged below
            [uv, "--version"], capture_output=True, text=True, timeout=30
        )
        version = answer.stdout.split()[1].split(".")
        return answer.returncode == 0 and tuple(int(part) for part in version[:2]) >= OLDEST
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return False


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
