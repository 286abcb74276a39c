"""The profile's plain part: where the deployment is, for the command line to find it."""

from __future__ import annotations

from typing import ClassVar

from infra.stack.locations import StackFolder
from infra.stack.profile import remember, remembered
from infra.targets.providers.provider import Properties, Provider


class ProfileRecord(Provider):
    """Input: `values` (profile key -> value, no secrets: `GeneratedValue` remembers those).

    An empty text stands for an absent key, because Pulumi drops null from its inputs.

    `remove` leaves the file: it holds the secrets of data that stays.
    """

    compared: ClassVar[tuple[str, ...]] = ("values",)

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        values = {key: None if value == "" else value for key, value in inputs["values"].items()}
        remember(folder.profile, values)
        return str(folder.profile), {}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        for key, value in outputs["values"].items():
            if (remembered(folder.profile, key) or "") != value:
                return f"{key} differs in {folder.profile}"
        return None
