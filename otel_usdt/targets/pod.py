"""What a sidecar is told of its own pod: environment variables and the files of a downward API volume. No Kubernetes API.

Sources: Kubernetes, "Downward API" and "Well-Known Labels, Annotations and Taints"; OpenTelemetry, "Kubernetes attributes".
Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from otel_usdt.targets.container import Container
from otel_usdt.targets.untrusted import ATTRIBUTES, is_key, kept, read, text

VARIABLES = {
    "K8S_POD_UID": "k8s.pod.uid",
    **{
        f"K8S_{kind.upper()}_NAME": f"k8s.{kind}.name"
        for kind in ("pod", "namespace", "container", "node", "cluster", "deployment", "replicaset", "statefulset", "daemonset")
    },
    "K8S_JOB_NAME": "k8s.job.name",
    "K8S_CRONJOB_NAME": "k8s.cronjob.name",
}
FOLDER_VARIABLE, FOLDER = "OTEL_USDT_PODINFO", "/etc/podinfo"  # of the files `labels` and `annotations`
_OWNERS = tuple(f"k8s.{kind}.name" for kind in ("deployment", "statefulset", "daemonset", "cronjob", "job", "replicaset"))
_FILE = 1 << 18  # bytes: all annotations of an object
_LINE = re.compile(r'([^=\s]+)=("(?:[^"\\]|\\.)*")')
_ANNOTATION = "resource.opentelemetry.io/"
_LABELS = {
    "service.name": "app.kubernetes.io/name",
    "service.namespace": "app.kubernetes.io/part-of",
    "service.version": "app.kubernetes.io/version",
}


def pod_of(container: Container, own: Container, environ: Mapping[str, str]) -> dict[str, str]:
    """k8s.* and service.* attributes of the target's pod; {} outside Kubernetes.

    What we were told is of our own pod, and is said of a target in that pod only: with the host's processes in sight there are others.
    """
    seen = {"k8s.pod.uid": container.pod_uid, "k8s.container.name": container.pod_container}
    found = {key: value for key, value in seen.items() if value}
    told = {key: kept(environ[name].strip()) for name, key in VARIABLES.items() if environ.get(name, "").strip()}
    ours = own.pod_uid or told.get("k8s.pod.uid")
    if not told or not container.id or (container.pod_uid and ours and container.pod_uid != ours):
        return found
    folder = environ.get(FOLDER_VARIABLE) or FOLDER
    labels, annotations = _told(f"{folder}/labels"), _told(f"{folder}/annotations")
    found = told | found
    found = _owners(found.get("k8s.pod.name", ""), labels) | found
    declared = {key.removeprefix(_ANNOTATION): kept(value) for key, value in annotations.items() if key.startswith(_ANNOTATION)}
    found |= {key: kept(labels[label]) for key, label in _LABELS.items() if labels.get(label)}
    found |= {key: value for key, value in declared.items() if value and is_key(key)}
    name = next((found[key] for key in (*_OWNERS, "k8s.pod.name") if key in found), "")
    for key, value in (("service.name", name), ("service.namespace", found.get("k8s.namespace.name", ""))):
        if value:
            found.setdefault(key, value)
    return found


def _owners(pod: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Who made the pod, from the labels that the controllers put on it and the names that they make of their own."""
    owner = pod.rpartition("-")[0]
    template = labels.get("pod-template-hash", "")
    if template and owner.endswith(f"-{template}"):
        return {"k8s.replicaset.name": owner, "k8s.deployment.name": owner.removesuffix(f"-{template}")}
    if owner and labels.get("statefulset.kubernetes.io/pod-name") == pod:
        return {"k8s.statefulset.name": owner}
    if job := labels.get("batch.kubernetes.io/job-name") or labels.get("job-name"):
        return {"k8s.job.name": kept(job)}
    if owner and "controller-revision-hash" in labels:
        return {"k8s.daemonset.name": owner}
    return {}


def _told(path: str) -> dict[str, str]:
    """Lines `key="value"` with the value quoted as in Go; a line of another form is passed over."""
    found: dict[str, str] = {}
    for line in text(read(path, _FILE)).splitlines():
        if (member := _LINE.fullmatch(line)) and len(found) < ATTRIBUTES:
            try:
                found[member[1]] = json.loads(member[2])
            except ValueError:
                continue
    return found
