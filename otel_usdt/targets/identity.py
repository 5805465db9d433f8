"""Who a process is: its OTLP resource, named as OBI (OpenTelemetry eBPF Instrumentation) names it, so that both land on one service.

The root supervisor reads this and the target writes it: what is read is bounded, and nothing here raises for what it says.
Standard library only. Source of the environment's forms: OpenTelemetry specification, "Resource SDK" and "Environment Variables".
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping

from otel_usdt import __version__
from otel_usdt.targets.container import Container, container_of
from otel_usdt.targets.pod import pod_of
from otel_usdt.targets.select import executable
from otel_usdt.targets.untrusted import attributes, kept, read, text

_ENVIRON = 1 << 20  # bytes: execve itself allows more, but nobody's resource lies past the first MiB
_MACHINE_ID = re.compile(r"[0-9a-f]{32}")
# What the kernel says of the process, the target may not gainsay.
_OURS = re.compile(r"(process|telemetry|container|host|os)\..*")


def resource_of(
    pid: int, service_fallback: str | None = None, proc: str = "/proc", environ: Mapping[str, str] = os.environ
) -> dict[str, str | int] | None:
    """The OTLP resource of process `pid` (as `proc` numbers it), or None when it is gone. `environ` is our own: a sidecar's.

    service.name is the target's OTEL_SERVICE_NAME, else service.name of its OTEL_RESOURCE_ATTRIBUTES, else `service_fallback`, else
    what its pod is called (annotation, label, owner, pod), else its compose service or Docker container, else its executable.
    Its other resource attributes are taken too, but for those about the process, container and host, which the kernel knows
    better. host.id is /etc/machine-id, without one the host's name.
    """
    born = _start_time(pid, proc)
    if born is None:
        return None
    own = _environ(pid, proc)
    told = {key: value for key, value in attributes(own.get("OTEL_RESOURCE_ATTRIBUTES", "")).items() if not _OURS.fullmatch(key)}
    container = container_of(pid, proc)
    pod = pod_of(container, _own_container(proc), environ) if container.id else {}
    path = executable(pid, proc)
    program = path.rpartition("/")[2] or text(read(f"{proc}/{pid}/comm", 64)).strip() or "unknown"
    host = os.uname().nodename
    resource: dict[str, str | int] = {key: value for key, value in (pod | told).items() if not _OURS.fullmatch(key)}
    resource["service.name"] = (
        _name(own.get("OTEL_SERVICE_NAME", ""))
        or _name(told.get("service.name", ""))
        or service_fallback
        or pod.get("service.name")
        or container.compose_service
        or container.name
        or kept(program)
    )
    resource.setdefault("service.instance.id", _instance(resource, container) or f"{host}:{pid}")
    resource |= {"process.pid": pid, "process.executable.name": kept(program)}
    if path:
        resource["process.executable.path"] = kept(path)
    resource |= {"host.name": pod.get("k8s.pod.name", host), "host.id": _host_id() or host, "os.type": "linux"}
    resource |= {"telemetry.distro.name": "otel-usdt", "telemetry.distro.version": __version__}
    resource |= {key: value for key, value in (("container.id", container.id), ("container.name", container.name)) if value}
    return resource if _start_time(pid, proc) == born else None  # else its pid was given to another while we read


@functools.cache
def _own_container(proc: str) -> Container:
    return container_of("self", proc)


def _name(told: str) -> str:
    """A service's name as the target has it; $(VARIABLE) is what Kubernetes leaves of a reference to nothing, and names nobody."""
    return "" if told.strip().startswith("$(") else kept(told.strip())


def _instance(resource: Mapping[str, str | int], container: Container) -> str:
    """As OBI has it for a pod, namespace.pod.container, and for Docker the container's name, after what it is an instance of."""
    pod = [str(resource.get(f"k8s.{key}.name", "")) for key in ("namespace", "pod", "container")]
    if pod[0] and pod[1]:
        return ".".join(filter(None, pod))
    if not container.name:
        return ""
    if namespace := resource.get("service.namespace"):
        return f"{namespace}.{resource['service.name']}.{container.name}"
    return ".".join(filter(None, (container.compose_service, container.name)))


def _environ(pid: int, proc: str) -> dict[str, str]:
    """The two variables that matter, as they were when the process started; a process that writes over them (setproctitle) has none."""
    found: dict[str, str] = {}
    for entry in read(f"{proc}/{pid}/environ", _ENVIRON).split(b"\0"):
        if entry.startswith(b"OTEL_"):
            name, equals, value = entry.partition(b"=")
            if equals and name in (b"OTEL_SERVICE_NAME", b"OTEL_RESOURCE_ATTRIBUTES"):
                found.setdefault(name.decode(), text(value))
    return found


def _host_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        value = text(read(path, 64)).strip()
        if _MACHINE_ID.fullmatch(value):
            return value
    return ""


def _start_time(pid: int, proc: str) -> bytes | None:
    """Clock ticks from boot to the process's start: with the pid it names one process for ever. None when it is gone, a zombie too:
    it has no environment and no program any more, so what would be told of it would be wrong."""
    stat = read(f"{proc}/{pid}/stat", 4096)
    fields = stat[stat.rfind(b")") + 2 :].split()
    return fields[19] if len(fields) > 19 and fields[0] not in (b"Z", b"X") else None
