"""Whose spans they are: the target's own resource, whatever it says of itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_usdt.targets.container import container_of
from otel_usdt.targets.identity import resource_of
from otel_usdt.targets.untrusted import attributes

SLEEP = "/usr/bin/sleep"


@contextmanager
def sleeping(**environ: str) -> Iterator[int]:
    with subprocess.Popen([SLEEP, "60"], env=environ) as process:
        try:
            while not Path(f"/proc/{process.pid}/cmdline").read_bytes():  # Popen returns in the middle of its exec
                time.sleep(0.001)
            yield process.pid
        finally:
            process.kill()


def resource(pid: int, fallback: str | None = None) -> dict[str, str | int]:
    made = resource_of(pid, fallback)
    assert made is not None
    return made


def test_a_plain_process_is_named_by_its_executable() -> None:
    """As OBI does on a host: executable's name, hostname:pid, and the host's identity."""
    with sleeping() as pid:
        made = resource(pid)
    host = socket.gethostname()
    assert made["service.name"] == made["process.executable.name"] == "sleep"
    assert made["service.instance.id"] == f"{host}:{pid}"
    assert (made["process.pid"], made["process.executable.path"]) == (pid, SLEEP)
    assert (made["host.name"], made["os.type"], made["telemetry.distro.name"]) == (host, "linux", "otel-usdt")
    machine = Path("/etc/machine-id")
    assert made["host.id"] == (machine.read_text().strip() if machine.exists() else host)
    assert "process.command_line" not in made


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"OTEL_SERVICE_NAME": "orders", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other"}, "orders"),
        ({"OTEL_SERVICE_NAME": "", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other"}, "other"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name = caf%C3%A9 "}, "café"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name="}, "fallback"),
        ({}, "fallback"),
    ],
)
def test_the_service_is_named_in_the_order_of_obi(environ: dict[str, str], name: str) -> None:
    """OTEL_SERVICE_NAME, then OTEL_RESOURCE_ATTRIBUTES, then what the caller knows."""
    with sleeping(**environ) as pid:
        assert resource(pid, "fallback")["service.name"] == name


def test_the_targets_own_attributes_are_taken_but_for_what_the_kernel_knows() -> None:
    """A target adds to its resource, and cannot pose as another process or host."""
    own = "service.namespace=shop,service.instance.id=i-1,deployment.environment.name=prod"
    told = f"{own},process.pid=1,host.id=x,container.id=y,telemetry.distro.name=z"
    with sleeping(OTEL_RESOURCE_ATTRIBUTES=told) as pid:
        made = resource(pid)
    assert (made["service.namespace"], made["service.instance.id"], made["deployment.environment.name"]) == ("shop", "i-1", "prod")
    assert (made["process.pid"], made["telemetry.distro.name"]) == (pid, "otel-usdt")
    assert made["host.id"] != "x"
    assert made.get("container.id") != "y"


def test_a_process_that_is_gone_has_no_resource() -> None:
    """None, and no error."""
    with subprocess.Popen([SLEEP, "0"]) as process:
        process.wait()
    assert resource_of(process.pid) is None


def test_a_hostile_environment_is_bounded() -> None:
    """Long, many or unprintable attributes are cut, dropped or cleaned."""
    told = ",".join([f"k{i}=v" for i in range(1000)]) + "," + "k" * 5000 + "=v"
    with sleeping(OTEL_SERVICE_NAME="n" * 5000 + "\x1b[2J", OTEL_RESOURCE_ATTRIBUTES=told, OTHER="x" * 100_000) as pid:
        made = resource(pid)
    assert made["service.name"] == "n" * 1024
    assert sum(key.startswith("k") for key in made) == 64


def made_up(proc: Path, cgroup: str, mounts: str = "", ours: str = "", **environ: str) -> dict[str, str | int]:
    """The resource of a process in a made-up /proc, with the executable that a kernel thread has: none. `ours` is our own cgroup."""
    (proc / "7").mkdir()
    (proc / "self").mkdir()
    (proc / "self" / "cgroup").write_text(ours)
    (proc / "self" / "mountinfo").write_text(f"1 1 8:1 / {proc} rw - ext4 /dev/sda rw\n")
    (proc / "7" / "mountinfo").write_text(mounts)
    (proc / "7" / "stat").write_text("7 (kworker) S 1 " + "0 " * 40)
    (proc / "7" / "comm").write_text("kworker\n")
    (proc / "7" / "cgroup").write_text(cgroup)
    made = resource_of(7, proc=str(proc), environ=environ)
    assert made is not None
    return made


ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("cgroup", "wanted"),
    [
        (f"0::/system.slice/docker-{ID}.scope\n", ID),
        (f"12:memory:/docker/{ID}\n0::/x\n", ID),
        (f"0::/kubepods.slice/kubepods-pod{'a' * 32}.slice/cri-containerd-{ID}.scope\n", ID),
        (f"0::/docker/{'f' * 64}/docker/{ID}\n", ID),
        (f"0::/system.slice/docker-{'f' * 64}.scope\n1:name=systemd:/docker/{'f' * 64}/docker/{ID}\n", ID),
        (f"0::/../{ID}\n", ID),
        (f"0::/../../podf0c2d9a1-0000-4000-8000-0123456789ab/{ID}\n", ID),
        (f"0::/machine.slice/libpod-{ID}.scope/container\n", ID),
        (f"0::/kubepods-besteffort-pod{'a' * 32}.slice:cri-containerd:{ID}\n", ID),
        (f"0::/machine.slice/libpod-conmon-{ID}.scope\n", None),
        ("0::/user.slice/session-1.scope\n", None),
        ("0::/\n", None),
        (f"0::/{'a' * 65}\n", None),
    ],
)
def test_the_container_is_found_in_the_cgroup(tmp_path: Path, cgroup: str, wanted: str | None) -> None:
    """64 hex digits, of the innermost container; longer runs are something else."""
    assert made_up(tmp_path, cgroup).get("container.id") == wanted


DOCKER = f"9 1 8:1 /docker\\040root/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/sda rw\n"


def docker_says(proc: Path, config: str) -> Path:
    """What Docker keeps of the container, where its mounts say."""
    folder = proc / "docker root" / "containers" / ID
    folder.mkdir(parents=True)
    (folder / "config.v2.json").write_text(config)
    return folder / "config.v2.json"


@pytest.mark.parametrize("cgroup", [f"0::/docker/{ID}\n", "0::/\n"])
def test_dockers_own_file_names_the_container(tmp_path: Path, cgroup: str) -> None:
    """Found by the mounts alone, also where the cgroup path says nothing."""
    docker_says(tmp_path, json.dumps({"ID": ID, "Name": "/web", "Config": {"Labels": {"com.docker.compose.service": "shop"}}}))
    made = made_up(tmp_path, cgroup, DOCKER)
    named = (made["container.id"], made["container.name"], made["service.name"], made["service.instance.id"])
    assert named == (ID, "web", "shop", "shop.web")


@pytest.mark.parametrize(
    "config",
    [
        "", "{", "[]", "[" * 50_000, "{}", json.dumps({"ID": "f" * 64, "Name": "/web"}), json.dumps({"ID": ID, "Name": 7}),
        json.dumps({"ID": ID, "Name": "", "Config": {"Labels": {"com.docker.compose.service": ["shop"]}}}),
        json.dumps({"ID": ID, "Config": "shop"}), json.dumps({"ID": ID, "Config": {"Labels": None}}),
    ],
)  # fmt: skip
def test_a_file_of_docker_that_says_nothing_of_use_is_passed_over(tmp_path: Path, config: str) -> None:
    """Then the container goes by its executable, like any process."""
    docker_says(tmp_path, config)
    made = made_up(tmp_path, f"0::/docker/{ID}\n", DOCKER)
    assert (made["service.name"], made["service.instance.id"]) == ("kworker", f"{socket.gethostname()}:7")
    assert "container.name" not in made


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_of_docker_is_not_read(tmp_path: Path, kind: str) -> None:
    """A container that mounts as it likes may point us at its own folder: no link is followed, no pipe waited for."""
    path = docker_says(tmp_path, json.dumps({"ID": ID, "Name": "/web"}))
    if kind == "link":
        path.rename(path.parent / "other")
        path.symlink_to("other")
    else:
        path.unlink()
        os.mkfifo(path) if kind == "pipe" else path.mkdir()
    assert made_up(tmp_path, f"0::/docker/{ID}\n", DOCKER)["service.name"] == "kworker"


UID = "f0c2d9a1-0000-4000-8000-0123456789ab"
POD = f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope\n"
OUR_OWN = f"0::/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{'e' * 64}.scope\n"
KUBELET = f"9 1 8:1 /var/lib/kubelet/pods/{UID}/containers/app/1a2b3c4d /dev/termination-log rw - ext4 /dev/sda rw\n"
TOLD = {"K8S_POD_NAME": "web-5d9c7b-abcde", "K8S_NAMESPACE_NAME": "shop", "K8S_NODE_NAME": "n-1", "K8S_CLUSTER_NAME": "c-1"}


def podinfo(folder: Path, labels: str = "", annotations: str = "") -> dict[str, str]:
    """A downward API volume, and the variable that names it."""
    (folder / "podinfo").mkdir()
    (folder / "podinfo" / "labels").write_text(labels)
    (folder / "podinfo" / "annotations").write_text(annotations)
    return {"OTEL_USDT_PODINFO": str(folder / "podinfo")}


def test_a_sidecars_pod_is_the_targets(tmp_path: Path) -> None:
    """What the sidecar was told of its pod, the container's name from the kubelet's mount, host.name and instance as OBI has them."""
    made = made_up(tmp_path, POD, KUBELET, OUR_OWN, **TOLD, **podinfo(tmp_path))
    assert {key: value for key, value in made.items() if key.startswith(("k8s", "service"))} == {
        "k8s.pod.name": "web-5d9c7b-abcde", "k8s.namespace.name": "shop", "k8s.node.name": "n-1", "k8s.cluster.name": "c-1",
        "k8s.pod.uid": UID, "k8s.container.name": "app",
        "service.name": "web-5d9c7b-abcde", "service.namespace": "shop", "service.instance.id": "shop.web-5d9c7b-abcde.app",
    }  # fmt: skip
    assert (made["host.name"], made["container.id"]) == ("web-5d9c7b-abcde", ID)


@pytest.mark.parametrize(
    ("labels", "annotations", "environ", "service", "owner"),
    [
        ('pod-template-hash="5d9c7b"', "", {}, "web", {"k8s.deployment.name": "web", "k8s.replicaset.name": "web-5d9c7b"}),
        ('pod-template-hash="other"', "", {}, "web-5d9c7b-abcde", {}),
        ('statefulset.kubernetes.io/pod-name="db-0"', "", {"K8S_POD_NAME": "db-0"}, "db", {"k8s.statefulset.name": "db"}),
        ('controller-revision-hash="77"', "", {"K8S_POD_NAME": "agent-x2x4z"}, "agent", {"k8s.daemonset.name": "agent"}),
        ('job-name="nightly"', "", {}, "nightly", {"k8s.job.name": "nightly"}),
        ('job-name="nightly-123"', "", {"K8S_CRONJOB_NAME": "nightly"}, "nightly", {"k8s.cronjob.name": "nightly"}),
        ("", "", {"K8S_DEPLOYMENT_NAME": "told"}, "told", {"k8s.deployment.name": "told"}),
        ('pod-template-hash="5d9c7b"\napp.kubernetes.io/name="labelled"', "", {}, "labelled", {"k8s.deployment.name": "web"}),
        (
            'app.kubernetes.io/name="labelled"\napp.kubernetes.io/version="7"',
            'resource.opentelemetry.io/service.name="anno\\"ted"\nresource.opentelemetry.io/team="t"\nother="x"\nbroken=x',
            {}, 'anno"ted', {"service.version": "7", "team": "t"},
        ),
    ],
)  # fmt: skip
def test_a_pods_service_is_named_in_the_order_of_obi(
    tmp_path: Path, labels: str, annotations: str, environ: dict[str, str], service: str, owner: dict[str, str]
) -> None:
    """Annotation, label, the owner as the controllers' labels and names tell it, the pod."""
    made = made_up(tmp_path, POD, KUBELET, OUR_OWN, **{**TOLD, **environ}, **podinfo(tmp_path, labels, annotations))
    assert made["service.name"] == service
    assert owner.items() <= made.items()


@pytest.mark.parametrize("ours", [OUR_OWN, ""])
def test_another_pod_or_the_host_is_not_ours(tmp_path: Path, ours: str) -> None:
    """With the host's processes in sight a sidecar says of other pods only what their own mounts and paths say."""
    (tmp_path / "host").mkdir()
    other = "00000000-1111-4000-8000-0123456789ab"
    told = {**TOLD, "K8S_POD_UID": UID}
    made = made_up(tmp_path, POD.replace(UID.replace("-", "_"), other), KUBELET.replace(UID, other), ours, **told)
    assert (made["k8s.pod.uid"], made["k8s.container.name"], made["service.name"]) == (other, "app", "kworker")
    assert not {"k8s.pod.name", "k8s.node.name"} & made.keys()
    assert not [key for key in made_up(tmp_path / "host", "0::/init.scope\n", "", ours, **told) if key.startswith("k8s")]


def test_a_private_cgroup_namespace_hides_the_pod_but_not_that_it_is_ours(tmp_path: Path) -> None:
    """In a sidecar of its own cgroup namespace the target's path is relative: the only containers in sight are the pod's."""
    made = made_up(tmp_path, f"0::/../{ID}\n", "", "0::/\n", **TOLD, K8S_CONTAINER_NAME="app", **podinfo(tmp_path))
    assert made["service.instance.id"] == "shop.web-5d9c7b-abcde.app"


def test_a_reference_that_kubernetes_left_unresolved_is_no_name() -> None:
    """OTEL_SERVICE_NAME=$(NOTHING) names nobody, as in OBI."""
    with sleeping(OTEL_SERVICE_NAME="$(NOTHING)") as pid:
        assert resource(pid)["service.name"] == "sleep"


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_bytes_of_cgroup_and_mounts_are_read(tmp_path_factory: pytest.TempPathFactory, cgroup: bytes, mounts: bytes) -> None:
    """Whatever is there, it is no error."""
    proc = tmp_path_factory.mktemp("proc")
    (proc / "7").mkdir()
    (proc / "7" / "cgroup").write_bytes(cgroup)
    (proc / "7" / "mountinfo").write_bytes(b"9 1 8:1 /containers/" + ID.encode() + b"/hosts " + mounts)
    container_of(7, str(proc))


def test_a_process_without_executable_is_named_by_its_command(tmp_path: Path) -> None:
    """As for kernel threads, and where /proc/PID/exe may not be read."""
    made = made_up(tmp_path, "")
    assert made["service.name"] == "kworker"
    assert "process.executable.path" not in made


@given(st.text())
def test_any_text_of_attributes_is_read(text: str) -> None:
    """Whatever a target writes there, it is bounded, printable, and no error."""
    for key, value in attributes(text).items():
        assert key.isprintable()
        assert value.isprintable()
        assert len(key) <= 128
        assert 0 < len(value) <= 1024


def test_the_supervisors_modules_are_standard_library_only() -> None:
    """What runs as root loads neither pydantic nor yaml."""
    modules = ", ".join(f"otel_usdt.{name}" for name in ("targets.identity", "targets.select", "targets.mapped", "probespec", "units"))
    others = "{n.partition('.')[0] for n in sys.modules} - set(sys.stdlib_module_names) - {'__main__', 'otel_usdt'}"
    program = f"import sys, {modules}; print(sorted({others}))"
    root = str(Path(__file__).parents[2])
    told = subprocess.run(
        ["python3", "-S", "-c", program], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "[]"


def test_a_zombie_is_gone() -> None:
    """It has a pid and a name still, but neither environment nor program: its tree's identity is right, its own would be wrong."""
    child = subprocess.Popen(["/bin/true"], env={"OTEL_SERVICE_NAME": "orders"})
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert resource_of(child.pid) is None
    child.wait()
