"""The model that comes with a stack when no provider is configured: the fake one, or SmolLM2."""

from __future__ import annotations

from pathlib import Path

import pulumi

from infra.components.embedded import ReleaseInstallation, Service, SmolLM2Installation
from infra.components.scripts import beside
from infra.deployment import LOOPBACK, SERVICE_MODEL, Model
from infra.locations import StackFolder
from infra.settings import FAKE_MODEL, SMOLLM2, Settings


class ModelService(pulumi.ComponentResource):
    """Outputs: `environment` for the server, `model` (its handles), `ready` to wait for."""

    def __init__(
        self, folder: StackFolder, settings: Settings, release: ReleaseInstallation
    ) -> None:
        super().__init__("letta-ops:local:Model", "model")
        build = self._fake if settings.model == "fake" else self._smollm2
        self.model: Model
        self.ready = build(folder, settings, release)
        # Letta speaks OpenAI's protocol to both; neither looks at the key.
        self.environment = {"OPENAI_API_KEY": "not-needed", "OPENAI_BASE_URL": settings.model_url}
        self.register_outputs({})

    def _fake(
        self, folder: StackFolder, settings: Settings, release: ReleaseInstallation
    ) -> Service:
        self.model = FAKE_MODEL
        port = settings.model_port
        script = folder.services / "fake_model.py"
        return Service(
            SERVICE_MODEL,
            folder,
            {
                "command": [
                    release.interpreter, script.as_posix(), "--host", LOOPBACK, "--port", str(port),
                ],
                "directory": "/",
                "health": {"kind": "http", "path": "/health", "seconds": 30},
                "port": port,
                **beside("fake_model.py"),
            },
            pulumi.ResourceOptions(parent=self),
        )  # fmt: skip

    def _smollm2(
        self, folder: StackFolder, settings: Settings, release: ReleaseInstallation
    ) -> Service:
        from infra.embedded.smollm2 import arguments

        self.model = SMOLLM2
        port = settings.model_port
        opts = pulumi.ResourceOptions(parent=self)
        installation = SmolLM2Installation(folder, release.python, opts)
        return Service(
            SERVICE_MODEL,
            folder,
            {
                "command": installation.venv.apply(lambda venv: list(arguments(Path(venv), port))),
                "directory": "/",
                "health": {"kind": "http", "path": "/v1/models", "seconds": 120},
                "port": port,
                "digest": "",
            },
            opts,
        )
