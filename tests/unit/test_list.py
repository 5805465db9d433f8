"""The command `otel-usdt list`."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from otel_usdt.cli.list import command
from otel_usdt.errors import BadBinary, OtelUsdtError, ProbeNotFound, UsageError

PROGRAM = r"""
#include <sys/sdt.h>
int shared_name(int x) { DTRACE_PROBE2(shop, order, x, (long)-3); return x; }
__asm__(".globl trapped; .type trapped,@function; trapped: int3; ret; .size trapped,.-trapped");
__asm__(".globl \"evil\033[31m\"; .type \"evil\033[31m\",@function; \"evil\033[31m\": ret; .size \"evil\033[31m\",.-\"evil\033[31m\"");
int main(void) { return shared_name(1); }
"""
FIELDS = [
    "kind", "binary", "build_id", "provider", "name", "address", "file_offset", "semaphore", "arguments", "attach", "reason",
]  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("list")
    (folder / "shop.c").write_text(PROGRAM)
    subprocess.run(["gcc", "-O1", "-Wl,--build-id=sha1", "-o", folder / "shop", folder / "shop.c"], check=True)
    return folder / "shop"


def listed(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def objects(*arguments: str) -> list[dict[str, Any]]:
    result = listed(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def failure(*arguments: str) -> OtelUsdtError:
    error = listed(*arguments).exception
    assert isinstance(error, OtelUsdtError)
    return error


def test_json_has_exactly_the_documented_fields(program: Path) -> None:
    """One object a line, usable by programs: numbers are numbers, what is missing is null."""
    (probe,) = objects("--binary", str(program), "usdt:*")
    assert list(probe) == FIELDS
    assert (probe["kind"], probe["provider"], probe["name"], probe["semaphore"]) == ("usdt", "shop", "order", None)
    assert (probe["attach"], probe["reason"]) == ("safe", "")
    assert probe["arguments"] == [
        {"index": 1, "size": 4, "signed": True, "location": "register di"},
        {"index": 2, "size": 8, "signed": True, "location": "constant -3"},
    ]
    (function,) = objects("--binary", str(program), "main")
    assert list(function) == FIELDS
    assert (function["kind"], function["provider"], function["arguments"]) == ("function", "", [])
    assert isinstance(function["file_offset"], int)
    assert function["build_id"] == probe["build_id"] != ""
    assert function["binary"] == str(program)


def test_refused_probes_say_why(program: Path) -> None:
    """What could harm the target is shown, marked, and explained."""
    (function,) = objects("--binary", str(program), "func:trapped")
    assert function["attach"] == "refused"
    assert "int3" in function["reason"]
    assert "refused: an int3" in listed("--binary", str(program), "trapped").output


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("usdt:*", {"order"}),
        ("usdt:shop:*", {"order"}),
        ("shop:order", {"order"}),
        ("ord*", {"order"}),
        ("*orde*", {"order"}),
        ("func:*name", {"shared_name"}),
        ("shared_name", {"shared_name"}),
        ("func:[mt]*a[ip]*", {"main", "trapped"}),
    ],
)
def test_globs_choose(program: Path, glob: str, names: set[str]) -> None:
    """The pattern matches provider:name, the probe's name or the function's; a prefix asks for one kind."""
    assert {one["name"] for one in objects("--binary", str(program), glob)} == names


def test_text_is_grouped_and_aligned_with_probes_first(program: Path) -> None:
    """People see the binary, then its USDT probes, then its functions, in columns; no escape sequence of the file gets through."""
    result = listed("--binary", str(program))
    title, *rows = result.stdout.splitlines()
    assert title.startswith(f"{program}  x86_64, build id ")
    assert rows[0].split() == ["usdt:shop:order", *rows[0].split()[1:2], "1:", "i32", "di", "2:", "i64", "constant", "-3"]
    names = [row.split()[0] for row in rows[1:]]
    assert names == sorted(names)
    assert all(name.startswith("func:") for name in names)
    assert "\x1b" not in result.stdout
    assert "func:evil\\x1b[31m" in names
    assert len({row.index("0x") + len(row.split()[1]) for row in rows}) == 1


def test_a_process_shows_its_libraries(program: Path) -> None:
    """With a pid the C library is listed as well, under its path in the process."""
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        deadline = time.monotonic() + 60
        while "libc" not in Path(f"/proc/{child.pid}/maps").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        found = objects("-p", str(child.pid), "func:malloc")
        child.kill()
    assert any("/libc" in one["binary"] for one in found)


def test_a_deleted_running_binary_is_listed(program: Path, tmp_path: Path) -> None:
    """A program that was removed while it runs is still read, by pid."""
    source = tmp_path / "waits.c"
    source.write_text("#include <sys/sdt.h>\n#include <unistd.h>\n"
                      'int main(void) { DTRACE_PROBE(shop, open); write(1, "x", 1); pause(); }')  # fmt: skip
    made = tmp_path / "waits"
    subprocess.run(["gcc", "-o", made, source], check=True)
    copy = tmp_path / "copy"
    shutil.copy(made, copy)
    with subprocess.Popen([copy], stdout=subprocess.PIPE) as child:
        assert child.stdout
        child.stdout.read(1)
        copy.unlink()
        (found,) = objects("-p", str(child.pid), "usdt:shop:*")
        child.kill()
    assert (found["name"], found["binary"]) == ("open", str(copy))


@pytest.mark.parametrize(
    ("glob", "near"), [("shred_name", "func:shared_name"), ("usdt:shop:ordr", "usdt:shop:order"), ("ordre", "usdt:shop:order")]
)
def test_nothing_found_names_the_nearest(program: Path, glob: str, near: str) -> None:
    """A misspelt name ends with exit code 4 and the names that were probably meant."""
    error = failure("--binary", str(program), glob)
    assert isinstance(error, ProbeNotFound)
    assert error.exit_code == 4
    assert near in str(error)


def test_a_stripped_binary_is_said_to_be(program: Path, tmp_path: Path) -> None:
    """When names are missing because they were stripped, the message and the remedy say so."""
    stripped = tmp_path / "stripped"
    subprocess.run(["strip", "-o", stripped, program], check=True)
    error = failure("--binary", str(stripped), "func:qqq_zzz")
    assert "stripped" in str(error)
    assert "debug symbols" in error.hint
    assert [one["name"] for one in objects("--binary", str(stripped), "usdt:*")] == ["order"]


def test_wrong_use_and_wrong_files_are_errors(program: Path) -> None:
    """Neither or both of -p and --binary is wrong use; a file that is no ELF file is a bad binary."""
    assert isinstance(failure(), UsageError)
    assert isinstance(failure("-p", "1", "--binary", str(program)), UsageError)
    assert isinstance(failure("--binary", "/etc/passwd"), BadBinary)


def test_help_has_an_example() -> None:
    """--help shows a command to copy."""
    assert "otel-usdt list -p 4242 'usdt:*'" in listed("--help").output


def test_a_terminal_gets_colour_and_no_escape_of_the_files(program: Path) -> None:
    """On a terminal the rows are coloured by us, and the file's own escape sequences are still shown as text."""
    leader, follower = pty.openpty()
    text = "from otel_usdt.cli.list import command; command()"
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("NO_COLOR", None)
    arguments = [sys.executable, "-c", text, "--binary", str(program), "*[ov][ri][dl]*"]
    with subprocess.Popen(arguments, stdout=follower, stderr=subprocess.DEVNULL, env=environment) as child:
        os.close(follower)
        shown = b""
        while True:
            try:
                block = os.read(leader, 4096)
            except OSError:  # EIO: the other end is closed
                break
            if not block:
                break
            shown += block
    os.close(leader)
    assert child.returncode == 0
    assert b"\x1b[36musdt:shop:order" in shown
    assert b"evil\\x1b[31m" in shown
    assert b"evil\x1b" not in shown
