"""The table of errors: commands that cannot be done, and what each says of it.

$pid, $stripped, $thread, $pytest and $folder stand for what test_errors.py has running and lying about.
"""

from __future__ import annotations

from dataclasses import dataclass

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
DOCS = ("docs/configuration.md", "otel-usdt plan FILE")
LIST = ("otel-usdt list -p PID",)
LEAF = "{function: leaf}"


@dataclass(frozen=True, slots=True)
class Row:
    """A command that cannot be done: its exit code, and words of its message and of its remedy, all of which are said."""

    name: str
    exit_code: int
    message: tuple[str, ...]
    remedy: tuple[str, ...]
    command: str = "run $folder/config.yaml"
    config: str = ""  # the text of config.yaml
    through: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def one(*spans: str, rest: str = "", target: str = "pid: $pid") -> str:
    """A configuration with these span probes: `rest` begins at line 4."""
    return f"targets:\n  - select: {{{target}}}\n    spans: [{', '.join(spans)}]\n{rest}\n"


LATER = """
targets:
  - select: {pid: $pid, open_ports: 5432}
    scope: cgroup
    spans:
      - {name: query, enter: usdt:a:b, return: usdt:a:c}
lease: {ttl: 30m, renew: on request}
budget: {cpu: 1%, drop_rate: 0.1%}
policy: {}
"""
LATER_KEYS = ("open_ports", "scope", "renew", "cpu", "drop_rate", "policy")

CONFIGURATION = [
    Row("no configuration", 2, ("/nonexistent.yaml: No such file",), DOCS, "run /nonexistent.yaml"),
    Row("a folder for a configuration", 2, ("$folder: Is a directory",), DOCS, "run $folder"),
    Row("an empty configuration", 2, ("config.yaml:1:1", "empty"), DOCS, config="\n"),
    Row("wrong YAML", 2, ("config.yaml:3:4: not YAML",), DOCS, config="targets:\n  - select: {pid: 1}\n   spans: []"),
    Row("what later releases bring", 2, tuple(f"{key}: not supported yet" for key in LATER_KEYS), DOCS, config=LATER),
    Row(
        "unknown keys, all at once",
        2,
        ("config.yaml:3:30: targets[0].spans[0].modee", "mean 'mode'?", "config.yaml:4:1: exprot", "mean 'export'?"),
        DOCS,
        config=one("{function: leaf, modee: count}", rest="exprot: {}"),
    ),
    Row(
        "two span probes of one name",
        2,
        ("config.yaml:3:", "two span probes are named 'a'", "the first is spans[0]"),
        DOCS,
        config=one("{name: a, function: leaf}", "{name: a, function: outer}"),
    ),
    Row(
        "two of one name by a glob",
        2,
        ("two span probes are named 'leaf'", "func:outer and func:leaf"),
        ("another name",),
        config=one("{name: leaf, function: outer}", "{function: 'lea*'}"),
    ),
    Row("return without enter", 2, ("config.yaml:3:", "return without enter"), DOCS, config=one("{return: usdt:workload:within__done}")),
    Row("enter without return", 2, ("config.yaml:3:", "enter without return"), DOCS, config=one("{enter: usdt:workload:within__start}")),
    Row(
        "a variable that is not set",
        2,
        ("config.yaml:4:", "NO_SUCH_VARIABLE"),
        DOCS,
        config=one(LEAF, rest="lease: {ttl: '$${NO_SUCH_VARIABLE}'}"),
    ),
    Row(
        "an endpoint that is none",
        2,
        ("config.yaml:4:", "'localhost:4317' is no endpoint"),
        DOCS,
        config=one(LEAF, rest="export: {otlp: {endpoint: 'localhost:4317'}}"),
    ),
    Row(
        "an endpoint of the environment that is none",
        2,
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "'nonsense' is no endpoint"),
        ("mend or unset OTEL_EXPORTER_OTLP_ENDPOINT",),
        config=one(LEAF),
        environment=(("OTEL_EXPORTER_OTLP_ENDPOINT", "nonsense"),),
    ),
    Row(
        "a certificate that is not there",
        2,
        ("/nonexistent.pem", "No such file"),
        ("PEM certificates",),
        config=one(LEAF, rest="export: {otlp: {endpoint: 'https://localhost:4317', certificate: /nonexistent.pem}}"),
    ),
    Row(
        "a client's certificate without its key",
        2,
        ("client_certificate without client_key",),
        ("name both, or neither",),
        config=one(LEAF, rest="export: {otlp: {endpoint: 'https://localhost:4317', client_certificate: /etc/hostname}}"),
    ),
    Row(
        "a header that cannot be sent",
        2,
        ("header 'a b' cannot be sent",),
        ("a name has letters",),
        config=one(LEAF, rest="export: {otlp: {headers: {'a b': c}}}"),
    ),
    Row(
        "an unknown user for the pipeline",
        2,
        ("no user 'nosuchuser'",),
        ("pipeline.user",),
        config=one(LEAF, rest="pipeline: {user: nosuchuser}"),
    ),
    Row(
        "an output file in no folder",
        2,
        ("/nonexistent/spans.jsonl cannot be written: No such file",),
        ("export.file.path",),
        config=one(LEAF, rest="export: {file: {path: /nonexistent/spans.jsonl}}"),
    ),
    Row(
        "an output file that is a link",
        2,
        ("link.jsonl cannot be written",),
        ("a symbolic link is not followed",),
        config=one(LEAF, rest="export: {file: {path: $folder/link.jsonl}}"),
    ),
    Row(
        "a pinned build that is not there",
        4,
        ("has build id", "not 0123456789abcdef"),
        ("update build_id",),
        config=one(LEAF, rest="    build_id: 0123456789abcdef"),
    ),
    Row(
        "an executable that nobody runs",
        4,
        ("no process runs */worklaod", "near: ", "/workload (pid "),
        ("check exe_path",),
        config=one(LEAF, target="exe_path: '*/worklaod'"),
    ),
]
COMMAND_LINE = [
    Row("neither pid nor binary", 2, ("one of -p PID and --binary PATH",), ("trace -p PID",), "trace func:leaf"),
    Row("a probe of no kind", 2, ("'fnc:leaf' is no probe",), ("usdt:PROVIDER:NAME",), "trace -p $pid fnc:leaf"),
    Row("half a pair", 2, ("is no pair: A ~~ B",), LIST, "trace -p $pid usdt:a:b~~"),
    Row("a duration that is none", 2, ("--for: '1x' is no duration",), ("--for 30s",), "trace -p $pid func:leaf --for 1x"),
    Row("more than a glob may mean", 2, ("func:* stands for", "more than 5"), ("raise --max",), "count --json -p $pid func:* --max 5"),
    Row("-o into no folder", 2, ("/nonexistent/o: No such file",), ("another file for -o",), "trace -p $pid func:leaf -o /nonexistent/o"),
    Row("not root", 3, ("attaching needs root", "CAP_BPF"), ("run as root", "doctor"), "trace --json -p $pid func:leaf", through=NOBODY),
]
TARGETS = [
    Row("a pid that is gone", 4, ("no process 4194000",), ("ps -e",), "trace --json -p 4194000 func:leaf"),
    Row("a pid of a thread", 4, ("$thread is a thread of process $pytest",), ("-p $pytest",), "trace --json -p $thread func:leaf"),
    Row("a thread of the kernel", 4, ("process 2 runs no program",), ("check the pid",), "trace --json -p 2 func:leaf"),
    Row("no ELF file", 4, ("$folder/text: not an ELF file",), ("readelf -h",), "trace --json --binary $folder/text func:leaf"),
    Row("a truncated file", 4, ("$folder/cut: truncated",), ("readelf -h",), "trace --json --binary $folder/cut func:leaf"),
    Row("a folder for a binary", 4, ("$folder: a directory",), ("readelf -h",), "trace --json --binary $folder func:leaf"),
    Row("no such binary", 4, ("/nonexistent: No such file",), ("check the pid or path",), "trace --json --binary /nonexistent func:leaf"),
]
PROBES = [
    Row("no such function", 4, ("has no function leef; near: leaf",), LIST, "trace --json -p $pid func:leef"),
    Row(
        "no such USDT probe",
        4,
        ("has no USDT probe workload:within__strat; near: workload:within__start",),
        LIST,
        "trace --json -p $pid usdt:workload:within__strat",
    ),
    Row("no such library", 4, ("does not map libfoo.so; near: libc.so.6",), LIST, "trace --json -p $pid libfoo.so:func:leaf"),
    Row("an address without code", 4, ("has no address 0x10",), LIST, "trace --json -p $pid addr:0x10"),
    Row(
        "a stripped binary",
        4,
        ("has no function leaf", "it is stripped"),
        ("a build with its symbols",),
        "trace --json -p $stripped func:leaf",
    ),
]
ROWS = [*CONFIGURATION, *COMMAND_LINE, *TARGETS, *PROBES]
