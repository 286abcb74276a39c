"""Our images as resources: built on the engine when their contents' tag isn't there yet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.stack.releases import RELEASES
from infra.targets.docker.engine.client import engine, find_image
from infra.targets.docker.images.recipes import BuildSettings, build
from infra.targets.providers.provider import Properties, Provider


class BuiltImage(Provider):
    """Inputs: `name` (letta, postgres, ...), `release`, `tag`, and how to build: `base`,
    `packages`, `ca_bundle`, `proxy`, `index_url`, `apt_mirror`. Output: `image_id`.

    The image stays when the resource goes: other stacks use it, and it is work to make again.
    """

    outputs: ClassVar[tuple[str, ...]] = ("image_id",)

    compared: ClassVar[tuple[str, ...]] = ("tag",)

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        tag = build(inputs["name"], RELEASES[inputs["release"]], _settings(inputs), _report)
        return tag, {"image_id": _image_id(tag)}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        found = _image_id(outputs["tag"])
        return None if found == outputs.get("image_id") else f"{outputs['tag']} is gone"


def _settings(inputs: Properties) -> BuildSettings:
    def hidden(name: str) -> Sensitive | None:
        return Sensitive(inputs[name]) if inputs.get(name) else None

    return BuildSettings(
        base=inputs["base"],
        packages=inputs["packages"],
        ca_bundle=Path(inputs["ca_bundle"]) if inputs.get("ca_bundle") else None,
        proxy=hidden("proxy"),
        index_url=hidden("index_url"),
        apt_mirror=inputs.get("apt_mirror") or None,
    )


def _image_id(tag: str) -> str | None:
    with engine() as client:
        image = find_image(client, tag)
    return None if image is None else str(image.id)


def _report(line: str) -> None:
    # The engine of Pulumi shows what its providers write there.
    print(line, file=sys.stderr, flush=True)
