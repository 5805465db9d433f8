"""The front door: help, version, exit codes, and how errors reach people."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from otel_usdt import __version__, errors
from otel_usdt.cli.main import COMMANDS, main

HEAVY = ("bcc", "capstone", "elftools", "google.protobuf", "grpc", "numpy", "pydantic", "rich", "yaml")
SELF = [sys.executable, "-c", "from otel_usdt.cli.main import main; main(prog_name='otel-usdt')"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="otel-usdt")


@pytest.fixture
def demo_that(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | type[BaseException]], Result]:
    """Runs `otel-usdt demo` with a command that raises what it is given."""

    def call(error: Exception | type[BaseException]) -> Result:
        @click.command()
        def command() -> None:
            raise error

        module = types.ModuleType("otel_usdt.cli.demo")
        module.__dict__["command"] = command
        monkeypatch.setitem(sys.modules, "otel_usdt.cli.demo", module)
        return run("demo")

    return call


def test_version_is_the_package_version() -> None:
    """--version names the tool and its version."""
    assert run("--version").output == f"otel-usdt, version {__version__}\n"


def test_help_lists_every_command() -> None:
    """--help has each command with a sentence, and an example."""
    told = run("--help")
    assert told.exit_code == 0
    assert all(f"  {name} " in told.output and text in told.output for name, text in COMMANDS.items())
    assert "Example: " in told.output


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_front_door_imports_nothing_heavy(arguments: list[str]) -> None:
    """Help and version come at once: no library is loaded that only a command needs."""
    call = f"from otel_usdt.cli.main import main; main({arguments!r}, standalone_mode=False)"
    code = f"import sys; {call}; print(*sys.modules, file=sys.stderr)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.split()
    assert "click" in loaded
    assert not set(HEAVY) & set(loaded)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(name: str) -> None:
    """Every command's --help shows how it is used."""
    told = run(name, "--help")
    assert told.exit_code == 0, told.output
    assert "Example" in told.output


def test_unknown_command_names_the_nearest() -> None:
    """A slip of the fingers gets a suggestion and exit code 2."""
    told = run("trcae")
    assert told.exit_code == 2
    assert "no such command: trcae; did you mean trace?" in told.stderr


def test_wrong_option_is_wrong_use() -> None:
    """Click's own usage errors end with 2 as well."""
    assert run("--no-such-option").exit_code == 2
    assert run("completion", "tcsh").exit_code == 2


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.OtelUsdtError, 1),
        (errors.UsageError, 2),
        (errors.ConfigError, 2),
        (errors.NotPermitted, 3),
        (errors.TargetNotFound, 4),
        (errors.ProbeNotFound, 4),
        (errors.BadBinary, 4),
        (errors.BuildIdMismatch, 4),
        (errors.ProbeRefused, 5),
        (errors.KernelRefused, 5),
        (errors.CompilerMissing, 5),
    ],
)
def test_error_becomes_message_remedy_and_exit_code(
    demo_that: Callable[[Exception], Result], error: type[errors.OtelUsdtError], exit_code: int
) -> None:
    """One place turns every error of ours into two lines on standard error and the documented exit code."""
    told = demo_that(error("it is so", hint="do this"))
    assert (told.exit_code, told.stdout, told.stderr) == (exit_code, "", "otel-usdt: it is so\n  remedy: do this\n")


def test_error_without_a_hint_has_no_remedy_line(demo_that: Callable[[Exception], Result]) -> None:
    """No empty remedy is shown."""
    assert demo_that(errors.OtelUsdtError("it is so")).stderr == "otel-usdt: it is so\n"


def test_control_c_exits_with_130(demo_that: Callable[[type[BaseException]], Result]) -> None:
    """An interrupt is no error: nothing is printed, and the code is a shell's for SIGINT."""
    told = demo_that(KeyboardInterrupt)
    assert (told.exit_code, told.stderr) == (130, "")


def test_fault_of_our_own_is_not_hidden(demo_that: Callable[[Exception], Result]) -> None:
    """What is no error of a user shows as what it is, with its traceback."""
    assert isinstance(demo_that(ZeroDivisionError("ours")).exception, ZeroDivisionError)


def test_closed_pipe_is_quiet() -> None:
    """`otel-usdt ... | head` ends without a word when the reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        told = subprocess.run([*SELF, "completion", "fish"], stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (told.returncode, told.stderr) == (141, "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_printed(shell: str) -> None:
    """The script of each shell calls the tool back."""
    told = run("completion", shell)
    assert told.exit_code == 0
    assert "_OTEL_USDT_COMPLETE" in told.output


def test_completion_completes_command_names() -> None:
    """What bash would ask for `otel-usdt d<TAB>` answers with the commands, and loads none of them."""
    asked = {**os.environ, "_OTEL_USDT_COMPLETE": "bash_complete", "COMP_WORDS": "otel-usdt d", "COMP_CWORD": "1"}
    told = subprocess.run(SELF, env=asked, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["plain,detach", "plain,doctor", "plain,demo"]
