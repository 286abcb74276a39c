"""Building one image on the engine: the base, the build's context, its progress and its failures."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import shorten
from typing import IO, TYPE_CHECKING, Any

from infra.errors import LettaOpsError
from infra.process import Report
from infra.sensitive import Sensitive, redact
from infra.targets.docker.engine.client import find_image

if TYPE_CHECKING:
    from docker import DockerClient

SILENCE_SECONDS = 1800  # a step of the build may say nothing for that long
TAIL_LINES = 20
COLOR = re.compile(r"\x1b\[[0-9;]*m")
PULL_HINT = (
    "connect this machine to a registry that has it, or load a Debian 13 image by other means"
    " (`docker load`, `docker import`) and name it: `letta-ops up --config image.base=NAME`"
)


def ensure_base(
    client: DockerClient, base: str, secrets: Iterable[Sensitive], report: Report
) -> None:
    """Pull `base` unless the engine has it. Raises LettaOpsError (`image-missing`)."""
    from docker.errors import DockerException

    if find_image(client, base) is not None:
        return
    report(f"pulling the base image {base}")
    try:
        client.images.pull(base)
    except (DockerException, OSError) as error:
        reason = redact(str(getattr(error, "explanation", None) or error), secrets)
        raise LettaOpsError(
            "image-missing",
            f"the base image {base} is not on this engine and cannot be pulled: {reason}",
            PULL_HINT,
        ) from None


def run_build(
    client: DockerClient,
    tag: str,
    files: Mapping[str, bytes],
    arguments: Mapping[str, str],
    secrets: Iterable[Sensitive],
    report: Report,
) -> None:
    """Build `tag` from `files` (path -> content), which hold a Dockerfile.

    Raises LettaOpsError: `disk-full`, or `image-build-failed` with the last lines (redacted).
    """
    from docker.errors import DockerException

    name = tag.partition(":")[0].rpartition("/")[2]
    tail: list[str] = []
    try:
        events = client.api.build(
            fileobj=context(files),
            custom_context=True,
            tag=tag,
            buildargs=dict(arguments),
            network_mode="host",  # also where the engine's bridge has no way out
            rm=True,
            forcerm=True,
            decode=True,
        )
        for event in events:
            for line in _lines(event):
                clean = redact(line, secrets)
                tail = [*tail[-TAIL_LINES:], clean]
                if progress := _progress(clean):
                    report(f"{name}: {progress}")
            if "error" in event:
                raise failed(name, tail)
    except (DockerException, OSError) as error:
        raise failed(name, [*tail, redact(str(error), secrets)]) from None


def context(files: Mapping[str, bytes]) -> IO[bytes]:
    """A tar archive that depends on nothing but `files`: the engine's cache knows it again."""
    sink = io.BytesIO()
    folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name in sorted({*folders, *files}):
            entry = tarfile.TarInfo(name)
            content = files.get(name)
            if content is None:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size = len(content)
                entry.mode = 0o755 if content.startswith(b"#!") else 0o644
                archive.addfile(entry, io.BytesIO(content))
    sink.seek(0)
    return sink


def failed(name: str, tail: list[str]) -> LettaOpsError:
    """The error for a build whose last lines are `tail`."""
    lines = "\n".join(f"    {line}" for line in tail)
    if "no space left on device" in lines.lower():  # the engine says it in no other way
        return LettaOpsError(
            "disk-full",
            f"the disk of the Docker engine is full; building the image {name} has failed:\n{lines}",
            "free some space (`docker system df` shows what uses it), then run this again",
        )
    return LettaOpsError(
        "image-build-failed",
        f"building the image {name} has failed; the last lines:\n{lines}",
        "look at the lines above, check the network and the image.* settings, then run this again",
    )


def _lines(event: Mapping[str, Any]) -> list[str]:
    text = COLOR.sub("", str(event.get("stream") or event.get("error") or ""))
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _progress(line: str) -> str | None:
    """What of the build's output a person waits for: its longer steps, and what our scripts say."""
    if line.startswith("== "):
        return line.removeprefix("== ")
    step = re.match(r"Step (\d+/\d+) : (RUN .*|COPY --from.*)", line)
    return f"step {step[1]}: {shorten(step[2], 80, placeholder=' ...')}" if step else None
