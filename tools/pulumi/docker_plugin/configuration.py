"""What the engine is told to make a container from: its JSON, built from a container's inputs."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from docker_plugin.engine import as_labels
from docker_plugin.fields import is_given, nanoseconds
from docker_plugin.properties import Properties

MEBIBYTE = 1024 * 1024


def configuration(inputs: Mapping[str, Any]) -> Properties:
    """Return the body of the engine's `POST /containers/create`; absent keys are its own to decide."""
    ports = {_port(port): [_binding(port)] for port in inputs.get("ports") or []}
    body = {
        "Image": inputs["image"],
        "Cmd": inputs.get("command"),
        "Entrypoint": inputs.get("entrypoints"),
        "Env": inputs.get("envs"),
        "User": inputs.get("user"),
        "WorkingDir": inputs.get("workingDir"),
        "Hostname": inputs.get("hostname"),
        "Labels": as_labels(inputs.get("labels")),
        "StopSignal": inputs.get("stopSignal"),
        "StopTimeout": inputs.get("stopTimeout"),
        "Healthcheck": _healthcheck(inputs.get("healthcheck")),
        "ExposedPorts": {name: {} for name in ports},
        "Volumes": {
            volume["containerPath"]: {}
            for volume in inputs.get("volumes") or []
            if _source(volume) is None
        },
        "HostConfig": _given({**_host(inputs), "PortBindings": ports}),
    }
    return _given(body)


def limits(inputs: Mapping[str, Any]) -> Properties:
    """What can be changed while the container runs."""
    return {
        "Memory": (inputs.get("memory") or 0) * MEBIBYTE,
        "MemorySwap": _swap(inputs.get("memorySwap") or 0),
        "CpuShares": inputs.get("cpuShares") or 0,
        "RestartPolicy": {
            "Name": inputs.get("restart") or "no",
            "MaximumRetryCount": inputs.get("maxRetryCount") or 0,
        },
    }


def archive(uploads: Iterable[Mapping[str, Any]]) -> bytes:
    """The files to put into the container, as a tar archive from its root."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as files:
        for upload in uploads:
            if is_given(upload.get("contentBase64")):
                content = base64.b64decode(upload["contentBase64"])
            else:
                content = upload["content"].encode()
            entry = tarfile.TarInfo(upload["file"].lstrip("/"))
            entry.size = len(content)
            entry.mode = 0o744 if upload.get("executable") else 0o644
            if permissions := upload.get("permissions"):
                entry.mode = int(permissions, 8)
            entry.uid, entry.gid = int(upload.get("owner") or 0), int(upload.get("group") or 0)
            files.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def _host(inputs: Mapping[str, Any]) -> Properties:
    capabilities = inputs.get("capabilities") or {}
    return {
        **limits(inputs),
        "NanoCpus": int(Decimal(inputs.get("cpus") or 0) * 10**9),
        "ShmSize": (inputs.get("shmSize") or 0) * MEBIBYTE,
        "Ulimits": [
            {"Name": item["name"], "Soft": item["soft"], "Hard": item["hard"]}
            for item in inputs.get("ulimits") or []
        ],
        "CapAdd": capabilities.get("adds"),
        "CapDrop": capabilities.get("drops"),
        "GroupAdd": inputs.get("groupAdds"),
        "Privileged": inputs.get("privileged"),
        "ReadonlyRootfs": inputs.get("readOnly"),
        "SecurityOpt": inputs.get("securityOpts"),
        "Sysctls": inputs.get("sysctls"),
        "IpcMode": inputs.get("ipcMode"),
        "PidMode": inputs.get("pidMode"),
        "Dns": inputs.get("dns"),
        "ExtraHosts": [f"{item['host']}:{item['ip']}" for item in inputs.get("hosts") or []],
        "NetworkMode": inputs.get("networkMode"),
        "Binds": [_bind(volume) for volume in inputs.get("volumes") or [] if _source(volume)],
        "Mounts": [_mount(mount) for mount in inputs.get("mounts") or []],
        "Tmpfs": inputs.get("tmpfs"),
        "LogConfig": _given({"Type": inputs.get("logDriver"), "Config": inputs.get("logOpts")}),
        "AutoRemove": inputs.get("rm"),
        "Init": inputs.get("init"),
    }


def _healthcheck(check: Mapping[str, Any] | None) -> Properties | None:
    if not check:
        return None
    body = {
        "Test": check.get("tests"),
        "Interval": nanoseconds(check.get("interval") or ""),
        "Timeout": nanoseconds(check.get("timeout") or ""),
        "StartPeriod": nanoseconds(check.get("startPeriod") or ""),
        "StartInterval": nanoseconds(check.get("startInterval") or ""),
        "Retries": check.get("retries"),
    }
    return _given(body)


def _swap(amount: int) -> int:
    # -1 is no amount: it takes the limit away.
    return amount * MEBIBYTE if amount > 0 else amount


def _port(port: Mapping[str, Any]) -> str:
    return f"{port['internal']}/{port.get('protocol') or 'tcp'}"


def _binding(port: Mapping[str, Any]) -> dict[str, str]:
    external = port.get("external")
    return {"HostIp": port.get("ip") or "", "HostPort": str(external) if external else ""}


def _source(volume: Mapping[str, Any]) -> str | None:
    return volume.get("volumeName") or volume.get("hostPath") or None


def _bind(volume: Mapping[str, Any]) -> str:
    mode = "ro" if volume.get("readOnly") else "rw"
    return f"{_source(volume)}:{volume['containerPath']}:{mode}"


def _mount(mount: Mapping[str, Any]) -> Properties:
    volume = mount.get("volumeOptions") or {}
    tmpfs = mount.get("tmpfsOptions") or {}
    driver = {"Name": volume.get("driverName"), "Options": volume.get("driverOptions")}
    return _given({
        "Type": mount["type"],
        "Target": mount["target"],
        "Source": mount.get("source"),
        "ReadOnly": mount.get("readOnly"),
        "BindOptions": _given({"Propagation": (mount.get("bindOptions") or {}).get("propagation")}),
        "TmpfsOptions": _given({"SizeBytes": tmpfs.get("sizeBytes"), "Mode": tmpfs.get("mode")}),
        "VolumeOptions": _given({
            "NoCopy": volume.get("noCopy"),
            "Labels": as_labels(volume.get("labels")),
            "DriverConfig": _given(driver),
        }),
    })  # fmt: skip


def _given(body: Mapping[str, Any]) -> Properties:
    # `Init: false` says something else than no `Init`; an empty value elsewhere says nothing.
    return {name: value for name, value in body.items() if is_given(value) or name == "Init"}
