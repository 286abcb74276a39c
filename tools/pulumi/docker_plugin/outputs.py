"""What a container's state shows: from what the engine says of it, and what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from docker_plugin.configuration import MEBIBYTE
from docker_plugin.fields import duration, is_given
from docker_plugin.properties import Properties
from docker_plugin.schema import CONTAINER


def outputs(found: Mapping[str, Any], state: Mapping[str, Any]) -> Properties:
    """Return the outputs of the container that the engine describes as `found`.

    What can't change while a container lives is shown as it was asked for (`state`), and where
    nothing was asked for as it is; what can change always as it is.
    """
    # A plain "no" was asked for as well: of `mustRun` the default is the opposite.
    asked = {
        name: state[name]
        for name in CONTAINER.fields
        if is_given(state.get(name)) or isinstance(state.get(name), bool)
    }
    result = {**_decided(found), **asked, **_changeable(found, state)}
    result["ports"] = [_port(port, found) for port in state.get("ports") or []]
    result["containerLogs"] = state.get("containerLogs")
    return result


def _decided(found: Mapping[str, Any]) -> Properties:
    config, host = found["Config"], found["HostConfig"]
    return {
        "command": config.get("Cmd") or [],
        "entrypoints": config.get("Entrypoint") or [],
        "envs": [],
        "labels": [],
        "user": config.get("User") or "",
        "workingDir": config.get("WorkingDir") or "",
        "hostname": config.get("Hostname") or "",
        "stopSignal": config.get("StopSignal") or "",
        "stopTimeout": config.get("StopTimeout") or 0,
        "securityOpts": host.get("SecurityOpt") or [],
        "shmSize": host["ShmSize"] // MEBIBYTE,
        "ipcMode": host["IpcMode"],
        "networkMode": host["NetworkMode"],
        "logDriver": host["LogConfig"]["Type"],
        "logOpts": host["LogConfig"].get("Config") or {},
        "privileged": host["Privileged"],
        "readOnly": host["ReadonlyRootfs"],
        "rm": host["AutoRemove"],
    }


def _changeable(found: Mapping[str, Any], state: Mapping[str, Any]) -> Properties:
    """What `docker update`, `docker rename` and time can change, and what an update here cannot."""
    host, config, swap = found["HostConfig"], found["Config"], found["HostConfig"]["MemorySwap"]
    running = found["State"]["Running"]
    networks = found["NetworkSettings"].get("Networks") or {}
    return {
        "image": found["Image"],
        "name": found["Name"].lstrip("/"),
        "memory": host["Memory"] // MEBIBYTE,
        "memorySwap": swap // MEBIBYTE if swap > 0 else swap,
        "cpuShares": host["CpuShares"],
        "cpuSet": host["CpusetCpus"],
        "cpus": _cpus(host.get("NanoCpus") or 0, state.get("cpus")),
        "restart": host["RestartPolicy"]["Name"] or "no",
        "maxRetryCount": host["RestartPolicy"]["MaximumRetryCount"],
        "healthcheck": _healthcheck(config.get("Healthcheck")),
        "init": bool(host.get("Init")),
        "tmpfs": host.get("Tmpfs") or {},
        "exitCode": None if running else found["State"]["ExitCode"],
        "bridge": found["NetworkSettings"].get("Bridge") or "",
        "networkDatas": [_network(name, networks[name]) for name in sorted(networks)],
    }


def _healthcheck(check: Mapping[str, Any] | None) -> Properties | None:
    if not check:
        return None
    return {
        "tests": check.get("Test") or [],
        "interval": duration(check.get("Interval") or 0),
        "timeout": duration(check.get("Timeout") or 0),
        "startPeriod": duration(check.get("StartPeriod") or 0),
        "startInterval": duration(check.get("StartInterval") or 0),
        "retries": check.get("Retries") or 0,
    }


def _cpus(nano: int, asked: str | None) -> str:
    # "1.50" and "1.5" are the same amount: what was asked for is shown as long as it is true.
    if int(Decimal(asked or 0) * 10**9) == nano:
        return asked or ""
    return f"{Decimal(nano) / 10**9:f}"


def _port(port: Mapping[str, Any], found: Mapping[str, Any]) -> Properties:
    protocol = port.get("protocol") or "tcp"
    bound = (found["NetworkSettings"].get("Ports") or {}).get(f"{port['internal']}/{protocol}")
    external = port.get("external")
    if not external:
        external = int(bound[0]["HostPort"]) if bound else None
    return {
        "internal": port["internal"],
        "external": external,
        "ip": port.get("ip") or "0.0.0.0",  # noqa: S104  # the engine's own default
        "protocol": protocol,
    }


def _network(name: str, network: Mapping[str, Any]) -> Properties:
    return {
        "networkName": name,
        "ipAddress": network["IPAddress"],
        "ipPrefixLength": network["IPPrefixLen"],
        "gateway": network["Gateway"],
        "macAddress": network["MacAddress"],
        "globalIpv6Address": network["GlobalIPv6Address"],
        "globalIpv6PrefixLength": network["GlobalIPv6PrefixLen"],
        "ipv6Gateway": network["IPv6Gateway"],
    }
