"""Which container a process is in, from /proc and Docker's own files: no socket, no API, no rights that reading does not need.

The cgroup path holds the container's id, for Docker, containerd, CRI-O and Podman alike. The mounts tell more: what Docker mounts on
/etc/hostname comes from its folder of that container, what the kubelet mounts for the termination log from .../pods/UID/containers/NAME.
Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from otel_usdt.targets.untrusted import kept, read, text

_CGROUP, _MOUNTS, _CONFIG = 1 << 16, 1 << 20, 1 << 20  # bytes read of each
# conmon is the monitor of a container of Podman or CRI-O: it runs outside it, in a cgroup of the same number.
_ID = re.compile(rb"(?<![0-9a-f])(?<!conmon-)([0-9a-f]{64})(?![0-9a-f])")
_POD = re.compile(rb"[/-]pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=[./:]|$)", re.MULTILINE)
_DOCKER_MOUNT = re.compile(r"(.*/containers/([0-9a-f]{64}))/(?:hostname|hosts|resolv\.conf)")
_KUBELET_MOUNT = re.compile(r".*/pods/([0-9a-f-]{32,36})/containers/([a-z0-9-]{1,63})/[0-9a-f]{8}")
_COMPOSE_SERVICE = "com.docker.compose.service"


@dataclass(frozen=True, slots=True)
class Container:
    """What is known of a container; "" for what is not."""

    id: str = ""  # 64 hex digits
    name: str = ""  # Docker's, without the slash
    compose_service: str = ""
    pod_uid: str = ""
    pod_container: str = ""  # its name in the pod


class _Mount(NamedTuple):
    device: str  # major:minor
    root: str  # within that file system
    point: str


def container_of(pid: int | str, proc: str = "/proc") -> Container:
    """The container of process `pid` ("self" is one too); empty for a process in none, or that is gone."""
    cgroup = read(f"{proc}/{pid}/cgroup", _CGROUP)
    identity = _innermost(cgroup)
    mounts = list(_mounts(read(f"{proc}/{pid}/mountinfo", _MOUNTS)))
    pod_uid, pod_container = next((found.groups() for one in mounts if (found := _KUBELET_MOUNT.fullmatch(one.root))), ("", ""))
    if not pod_uid and (pods := _POD.findall(cgroup)):
        pod_uid = text(pods[-1]).replace("_", "-")
    name = compose_service = ""
    for mount in mounts:
        found = _DOCKER_MOUNT.fullmatch(mount.root)
        # In a cgroup namespace of its own, as ours may be, the path does not name it; but a nested container's mounts may name the outer.
        if found and found[2] == (identity or found[2]):
            identity = found[2]
            name, compose_service = _docker_names(mount.device, found[1], identity, proc)
            break
    return Container(identity, name, compose_service, pod_uid, pod_container)


def _innermost(cgroup: bytes) -> str:
    """The last container of the line that names most: of nested containers the inner one. v1 has a line a hierarchy, v2 one in all."""
    found = max((_ID.findall(line) for line in cgroup.splitlines()), key=len, default=[])
    return text(found[-1]) if found else ""


def _docker_names(device: str, folder: str, identity: str, proc: str) -> tuple[str, str]:
    """Name and compose service from Docker's config.v2.json in `folder` of `device`, wherever we have that mounted; "" when nowhere."""
    for mount in _mounts(read(f"{proc}/self/mountinfo", _MOUNTS)):
        root = mount.root.rstrip("/")
        if mount.device != device or not f"{folder}/".startswith(f"{root}/"):
            continue
        config = _json(read(f"{mount.point.rstrip('/')}{folder[len(root) :]}/config.v2.json", _CONFIG, regular=True))
        if config.get("ID") == identity:
            inner = config.get("Config")
            labels = inner.get("Labels") if isinstance(inner, dict) else None
            service = labels.get(_COMPOSE_SERVICE) if isinstance(labels, dict) else None
            return _name(config.get("Name")).strip("/"), _name(service)
    return "", ""


def _name(value: Any) -> str:
    return kept(value) if isinstance(value, str) else ""


def _json(data: bytes) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _mounts(data: bytes) -> Iterator[_Mount]:
    """Lines of mountinfo(5); blanks and the like in paths are octal there."""
    for line in data.splitlines():
        fields = line.split(b" ", 5)
        if len(fields) == 6:
            yield _Mount(text(fields[2]), _path(fields[3]), _path(fields[4]))


def _path(field: bytes) -> str:
    return re.sub(rb"\\([0-3][0-7]{2})", lambda octal: bytes([int(octal[1], 8)]), field).decode(errors="surrogateescape")
