"""A third target, from another package: a folder and one line (see `toy-1.dist-info`).

It runs the services of `local`, so that its stacks are real, and differs in what a target may: its
name, its keys, its defaults, and what of it can be asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from infra.stack.deployment import Deployment
from infra.stack.keys import OneOf, Section, setting
from infra.stack.locations import StackFolder
from infra.targets.facts import Fact, Listeners, Services
from infra.targets.local.host import LocalHost
from infra.targets.local.settings import LocalSettings
from infra.targets.local.target import Local
from infra.targets.target import Host, Requirement


class ToySection(Section):
    table: ClassVar[str] = "toy."

    colour: Annotated[Literal["red", "blue"], OneOf()] = setting("red", "of nothing")


class ToySettings(LocalSettings):
    toy: ToySection = setting(ToySection(), "the toy's own")


class Toy(Local):
    settings = ToySettings

    def requirements(
        self, folder: StackFolder, configuration: Mapping[str, Any], *, chosen: bool
    ) -> Iterator[Requirement]:
        if chosen:
            yield Requirement("toy", True, f"colour {configuration.get('toy.colour', 'red')}")

    def host(self, deployment: Deployment) -> Host | None:
        folder = deployment.folder
        return ToyHost(deployment, folder) if folder and folder.root.is_dir() else None


@dataclass(frozen=True)
class ToyHost(LocalHost):
    facts: Collection[Fact] = ()
    shares_disk = False

    def services(self) -> Services:
        raise AssertionError("it is not asked for what it doesn't say")

    def listeners(self) -> Listeners:
        raise AssertionError("it is not asked for what it doesn't say")
