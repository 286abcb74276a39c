"""The model that comes with a stack when no provider is configured: the fake one, or SmolLM2."""

from __future__ import annotations

from pathlib import Path

import pulumi

from infra.stack.deployment import LOOPBACK, SERVICE_MODEL, SERVICE_SMOLLM2
from infra.stack.locations import StackFolder
from infra.targets.components.scripts import copied_scripts
from infra.targets.local.providers.runtime import SmolLM2
from infra.targets.local.settings import LocalSettings
from infra.targets.resources import Resource, resource, service


class ModelService(pulumi.ComponentResource):
    """Outputs: `environment` for the server, and `ready` to wait for.

    The fake model is always there: SmolLM2 has neither tool calls nor embeddings, so the fake one
    stands in front of it, answers for itself, embeds, and hands on what is for SmolLM2.
    """

    def __init__(self, folder: StackFolder, settings: LocalSettings, release: Resource) -> None:
        super().__init__("letta-ops:local:Model", "model")
        behind: list[pulumi.Resource] = []
        forward: list[str] = []
        if settings.model == "smollm2":
            behind.append(self._smollm2(folder, settings, release))
            forward = [
                "--forward",
                f"smollm2=http://{LOOPBACK}:{settings.smollm2_port}/v1",
            ]
        self.ready = service(
            SERVICE_MODEL,
            folder,
            {
                "command": [
                    release.interpreter, str(folder.script("fake_model.py")),
                    "--host", LOOPBACK, "--port", str(settings.model_port), *forward,
                ],
                "directory": "/",
                "health": {"kind": "http", "path": "/health", "seconds": 30},
                "port": settings.model_port,
                **copied_scripts("embedded/fake_model.py"),
            },
            pulumi.ResourceOptions(parent=self, depends_on=behind),
        )  # fmt: skip
        # Letta speaks OpenAI's protocol to it; nobody looks at the key.
        self.environment = {
            "OPENAI_API_KEY": "not-needed",
            "OPENAI_BASE_URL": settings.model_url,
        }
        self.register_outputs({})

    def _smollm2(self, folder: StackFolder, settings: LocalSettings, release: Resource) -> Resource:
        from infra.embedded.smollm2 import arguments

        port = settings.smollm2_port
        opts = pulumi.ResourceOptions(parent=self)
        installation = resource(SmolLM2(), "smollm2", folder, {"python": release.python}, opts)
        return service(
            SERVICE_SMOLLM2,
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
