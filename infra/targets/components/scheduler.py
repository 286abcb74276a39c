"""The service that makes backups and drills when they are due: a process of the operator's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.metadata import version

import pulumi

from infra.stack.deployment import SERVICE_SCHEDULER
from infra.stack.locations import StackFolder, cache_folder
from infra.stack.settings import Settings
from infra.targets.providers.service import OPERATOR
from infra.targets.resources import service

# What the operator's own commands find their way with. Nothing of it is a secret.
HANDED_ON = (
    "HOME", "TZ", "LANG", "LC_ALL", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "LETTA_OPS_STACKS",
    "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY",
    "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_REGION",
    "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


def scheduler(
    folder: StackFolder,
    settings: Settings,
    after: pulumi.Resource,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Declare the service, where something is scheduled. It begins when the profile is written."""
    schedules = [each for each in (settings.backup.schedule, settings.drill.schedule) if each]
    if not schedules:
        return
    service(
        SERVICE_SCHEDULER,
        folder,
        {
            "command": [
                # -P: what lies in the folder where it starts hides no module of ours.
                sys.executable, "-P", "-m", "ops_cli",
                "--stack", folder.stack, "backup", "schedule", "--run",
            ],
            "directory": "/",
            "account": OPERATOR,
            "variables": variables(folder, environment),
            # Not compared: it is another one in every shell, and a restart ends a backup.
            "path": environment.get("PATH", os.defpath),
            "health": {"kind": "none", "uptime": 4, "seconds": 60},
            "port": 0,
            "digest": " | ".join([*schedules, version("letta-ops")]),
        },
        pulumi.ResourceOptions(depends_on=[after]),
    )  # fmt: skip


def variables(folder: StackFolder, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of the service: where the operator's things are, and no secret."""
    known = {name: environment[name] for name in HANDED_ON if environment.get(name)}
    # supervisord's files have no way to write a quote; a proxy's URL may hold a password.
    plain = {name: text for name, text in known.items() if not {'"', "\n", "@"} & set(text)}
    ours = {"LETTA_OPS_STATE": str(folder.state), "LETTA_OPS_CACHE": str(cache_folder(environment))}
    return {**plain, **ours, "PYTHONUNBUFFERED": "1"}
