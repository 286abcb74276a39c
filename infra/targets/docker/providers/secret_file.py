"""A secret as a file in the stack's secrets volume, readable by one account alone."""

from __future__ import annotations

from typing import ClassVar

from infra.errors import LettaOpsError
from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.targets.docker.engine.client import engine, find_volume
from infra.targets.docker.engine.oneshot import Job, ensure_done, run_once
from infra.targets.docker.names import SECRETS_FOLDER, Names
from infra.targets.providers.provider import Properties, Provider

# The file is there whole or not at all; who may list the folder is root.
WRITE = """\
set -eu; umask 077; cd /secrets; chmod 0711 .
cat > ".$1.new"; chown "$2:$2" ".$1.new"; chmod 0400 ".$1.new"; mv ".$1.new" "$1"; sync
"""
HINT = "read the lines above; run the same command again when the cause is mended"


class SecretFile(Provider):
    """Inputs: `prefix`, `image` (any of ours), `name`, `owner` (uid), `content`.

    The content goes there by the stdin of a short-lived container: `docker inspect`, the process
    list and the image never see it.
    """

    compared: ClassVar[tuple[str, ...]] = ("prefix", "name", "owner", "content")

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        names = Names(inputs["prefix"])
        owner, content = int(inputs["owner"]), Sensitive(inputs["content"])
        write_secret(names, inputs["image"], inputs["name"], owner, content)
        return inputs["name"], {}

    def remove(self, folder: StackFolder, outputs: Properties) -> None:
        names = Names(outputs["prefix"])
        if not _has_volume(names):
            return
        arguments = ["rm", "-f", f"{SECRETS_FOLDER}/{outputs['name']}"]
        job = _job(names, outputs["image"], outputs["name"], arguments, None)
        try:
            ensure_done(job, "secret-file", HINT, "removing a secret's file")
        except LettaOpsError as error:
            if error.code != "image-missing":
                raise  # without the image the file stays, in a volume that only root can read

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        there = is_written(Names(outputs["prefix"]), outputs["image"], outputs["name"])
        return None if there else f"the file {outputs['name']} is gone"


def is_written(names: Names, image: str, name: str) -> bool:
    """Look for the file itself: a volume's `CreatedAt` changes with every file in it."""
    if not _has_volume(names):
        return False
    arguments = ["test", "-s", f"{SECRETS_FOLDER}/{name}"]
    try:
        return run_once(_job(names, image, name, arguments, None)).code == 0
    except LettaOpsError as error:
        if error.code != "image-missing":
            raise
        return False  # it can't be looked at: it is written again, from the new image


def write_secret(names: Names, image: str, name: str, owner: int, content: Sensitive) -> None:
    """Write `content` into the stack's secrets volume as the file `name` of the account `owner`."""
    arguments = ["sh", "-c", WRITE, "sh", name, str(owner)]
    job = _job(names, image, name, arguments, content)
    ensure_done(job, "secret-file", HINT, "writing a secret's file")


def _job(
    names: Names, image: str, name: str, arguments: list[str], content: Sensitive | None
) -> Job:
    return Job(
        f"{names.prefix}-secret-{name}",
        image,
        arguments,
        names.labels("secret"),
        volumes={names.volume("secrets"): SECRETS_FOLDER},
        stdin=None if content is None else content.reveal(),
        user="0:0",
        add_capabilities=("CHOWN", "FOWNER", "DAC_OVERRIDE"),
        secrets=() if content is None else (content,),
    )


def _has_volume(names: Names) -> bool:
    with engine() as client:
        return find_volume(client, names.volume("secrets")) is not None
