"""Where the configured model providers are, brought to the database of a local stack."""

from __future__ import annotations

from typing import ClassVar

from infra.database import model_endpoints
from infra.errors import LettaOpsError
from infra.stack.locations import StackFolder
from infra.targets.local.postgres import administrator
from infra.targets.providers.provider import Properties, Provider


class ModelEndpoints(Provider):
    """Inputs: `port` of Postgres, `urls` (see `infra.database.model_endpoints`)."""

    compared: ClassVar[tuple[str, ...]] = ("urls", "port")

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        with administrator(folder, int(inputs["port"])) as link:
            model_endpoints.move(link, inputs["urls"])
        return folder.stack, {}

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        try:
            with administrator(folder, int(outputs["port"])) as link:
                return model_endpoints.elsewhere(link, outputs["urls"])
        except LettaOpsError:
            return None  # Postgres' own service says so
