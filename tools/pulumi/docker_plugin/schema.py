"""The inputs that each type knows, after pulumi-docker 5.2 and the provider that it bridges.

A change of an input replaces the resource, unless it is `in_place` here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from docker_plugin.fields import Field

TEXT, WHOLE, FLAG = Field("text"), Field("whole"), Field("flag")
TEXTS = Field("list", item=TEXT)
TEXT_SET = Field("set", item=TEXT)
TEXT_MAP = Field("map", item=TEXT)
DURATION = Field("duration", implied="0s")
NAME = Field("text", required=True)


@dataclass(frozen=True)
class Schema:
    """The inputs of one type, and what the official plugin knows beyond them (`unsupported`).

    `outputs` are what the engine alone decides. `autonamed`: a missing name is made up.
    """

    fields: Mapping[str, Field]
    unsupported: frozenset[str] = frozenset()
    outputs: tuple[str, ...] = ()
    autonamed: bool = True


def _objects(kind: str = "set", **fields: Field) -> Field:
    item = Field("object", fields=fields)
    return Field("list" if kind == "list" else "set", item=item)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LABELS = _objects(label=Field("text", required=True), value=Field("text", required=True))

HEALTHCHECK = Field(
    "object",
    computed=True,
    in_place=True,
    fields={
        "tests": Field("list", item=TEXT),
        "interval": DURATION,
        "timeout": DURATION,
        "startPeriod": DURATION,
        "startInterval": Field("duration", default="0s", implied="0s"),
        "retries": WHOLE,
    },
)

MOUNTS = _objects(
    target=Field("text", required=True),
    type=Field("text", required=True, choices=("bind", "volume", "tmpfs")),
    source=TEXT,
    readOnly=FLAG,
    bindOptions=Field("object", fields={"propagation": TEXT}),
    tmpfsOptions=Field("object", fields={"mode": WHOLE, "sizeBytes": WHOLE}),
    volumeOptions=Field(
        "object",
        fields={
            "noCopy": FLAG,
            "labels": LABELS,
            "driverName": TEXT,
            "driverOptions": TEXT_MAP,
        },
    ),
)

CONTAINER = Schema(
    fields={
        "image": Field("text", required=True),
        "name": TEXT,
        "command": Field("list", item=TEXT, computed=True),
        "entrypoints": Field("list", item=TEXT, computed=True),
        "envs": Field("set", item=TEXT, computed=True),
        "user": Field("text", computed=True),
        "workingDir": Field("text", computed=True),
        "hostname": Field("text", computed=True),
        "labels": Field("set", item=LABELS.item, computed=True),
        "stopSignal": Field("text", computed=True),
        "stopTimeout": Field("whole", computed=True),
        # How it is brought up and watched: nothing on the engine.
        "healthcheck": HEALTHCHECK,
        "attach": Field("flag", in_place=True),
        "logs": Field("flag", in_place=True),
        "mustRun": Field("flag", implied=True, in_place=True),
        "start": Field("flag", default=True, implied=True, in_place=True),
        "wait": Field("flag", in_place=True),
        "waitTimeout": Field("whole", implied=60, in_place=True),
        "containerReadRefreshTimeoutMilliseconds": Field(
            "whole", default=15000, implied=15000, in_place=True
        ),
        "destroyGraceSeconds": Field("whole", in_place=True),
        "removeVolumes": Field("flag", default=True, implied=True, in_place=True),
        "rm": Field("flag", in_place=True),
        "init": Field("flag", computed=True, in_place=True),
        # What the engine can change while it runs.
        "restart": Field(
            "text",
            implied="no",
            in_place=True,
            choices=("no", "on-failure", "always", "unless-stopped"),
        ),
        "maxRetryCount": Field("whole", in_place=True),
        "memory": Field("whole", in_place=True),
        "memorySwap": Field("whole", computed=True, in_place=True),
        "cpuShares": Field("whole", in_place=True),
        "cpus": TEXT,
        "shmSize": Field("whole", computed=True),
        "ulimits": _objects(
            name=NAME, soft=Field("whole", required=True), hard=Field("whole", required=True)
        ),
        # What it may do.
        "capabilities": Field("object", fields={"adds": TEXT_SET, "drops": TEXT_SET}),
        "groupAdds": TEXT_SET,
        "privileged": FLAG,
        "readOnly": FLAG,
        "securityOpts": Field("set", item=TEXT, computed=True),
        "sysctls": TEXT_MAP,
        "ipcMode": Field("text", computed=True),
        "pidMode": TEXT,
        # What it reaches.
        "dns": TEXT_SET,
        "hosts": _objects(host=Field("text", required=True), ip=Field("text", required=True)),
        "networkMode": Field("text", default="bridge", implied="bridge"),
        "networksAdvanced": _objects(name=NAME, aliases=TEXT_SET, ipv4Address=TEXT),
        "ports": _objects(
            "list",
            internal=Field("whole", required=True),
            external=Field("whole", computed=True),
            ip=Field("text", implied="0.0.0.0"),  # noqa: S104  # the engine's own default
            protocol=Field("text", default="tcp", implied="tcp"),
        ),
        # What it finds on its disk.
        "volumes": _objects(
            volumeName=TEXT,
            hostPath=TEXT,
            containerPath=Field("text", required=True),
            readOnly=FLAG,
        ),
        "mounts": MOUNTS,
        "tmpfs": Field("map", item=TEXT, in_place=True),
        "uploads": _objects(
            file=Field("text", required=True),
            content=TEXT,
            contentBase64=TEXT,
            executable=FLAG,
            permissions=TEXT,
            owner=TEXT,
            group=TEXT,
        ),
        "logDriver": Field("text", computed=True),
        "logOpts": Field("map", item=TEXT, computed=True),
    },
    unsupported=_words("""
        cgroupParent cgroupnsMode cpuPeriod cpuQuota cpuSet deviceCgroupRules deviceReadBps
        deviceReadIops deviceRequests deviceWriteBps deviceWriteIops devices dnsOpts dnsSearches
        domainname gpus memoryReservation platform publishAllPorts runtime stdinOpen storageOpts tty
        usernsMode driverOpts gwPriority ipv6Address linkLocalIps macAddress subpath source
        sourceHash fromContainer selinuxRelabel
    """),
    outputs=("bridge", "containerLogs", "cpuSet", "exitCode", "networkDatas"),
)

NETWORK = Schema(
    fields={
        "name": TEXT,
        "driver": Field("text", computed=True),
        "internal": Field("flag", computed=True),
        "attachable": FLAG,
        "ingress": FLAG,
        "ipv6": FLAG,
        "ipamDriver": Field("text", default="default", implied="default"),
        "ipamConfigs": Field(
            "list",
            computed=True,
            item=Field(
                "object",
                fields={
                    "subnet": Field("text", computed=True),
                    "gateway": Field("text", computed=True),
                    "ipRange": TEXT,
                    "auxAddress": TEXT_MAP,
                },
            ),
        ),
        "labels": LABELS,
        "options": Field("map", item=TEXT, computed=True),
    },
    unsupported=_words("ipamOptions"),
    outputs=("scope",),
)

VOLUME = Schema(
    fields={
        "name": TEXT,
        "driver": Field("text", computed=True),
        "driverOpts": TEXT_MAP,
        "labels": LABELS,
    },
    unsupported=_words("cluster"),
    outputs=("mountpoint",),
)

IMAGE = Schema(
    fields={
        "name": NAME,
        "keepLocally": Field("flag", in_place=True),
        "forceRemove": Field("flag", in_place=True),
        "platform": TEXT,
        "pullTriggers": TEXT_SET,
        "triggers": TEXT_MAP,
    },
    unsupported=_words("build"),
    outputs=("imageId", "repoDigest"),
    autonamed=False,
)
