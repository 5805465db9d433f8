"""Every error that a user can meet: what is wrong, what to do about it, and the exit code it ends with."""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is a fifth of what `otel-usdt attach` imports
if TYPE_CHECKING:
    from typing import Any, ClassVar


class OtelUsdtError(Exception):
    """Base of all errors that are somebody's to mend. `hint` says how; `exit_code` is the command's."""

    exit_code: ClassVar[int] = 1
    hint: str = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        if hint is not None:
            self.hint = hint

    def told(self) -> str:
        """What the user reads: the message, and the remedy below it."""
        return f"{self}\n  remedy: {self.hint}" if self.hint else str(self)

    def to_dict(self) -> dict[str, Any]:
        """The form in which an error crosses from one of our processes to another."""
        return {"error": type(self).__name__, "message": str(self), "hint": self.hint, "exit_code": self.exit_code}


class UsageError(OtelUsdtError):
    """The command line or the configuration asks for something that makes no sense (exit 2)."""

    exit_code = 2
    hint = "otel-usdt COMMAND --help shows an example"


class ConfigError(UsageError):
    """A configuration with faults; the message lists all of them, each with file, line and column."""

    hint = "docs/configuration.md describes every key; otel-usdt plan FILE checks a file and attaches nothing"


class NotPermitted(OtelUsdtError):
    """Rights are missing (exit 3)."""

    exit_code = 3
    hint = "run as root, or see what otel-usdt doctor says is missing"


class TargetNotFound(OtelUsdtError):
    """No process or file answers to the description (exit 4)."""

    exit_code = 4
    hint = "check the pid or path; in a container the host's pid is wanted"


class ProbeNotFound(OtelUsdtError):
    """The binary has no such probe (exit 4); the message names the nearest ones."""

    exit_code = 4
    hint = "otel-usdt list -p PID shows this process's probes"


class BadBinary(OtelUsdtError):
    """A file that is no ELF file, or a truncated or hostile one (exit 4)."""

    exit_code = 4
    hint = "check the path; readelf -h FILE shows what it is"


class BuildIdMismatch(OtelUsdtError):
    """The binary is not the pinned build (exit 4)."""

    exit_code = 4
    hint = "the binary was replaced: check the release, then update build_id in the configuration"


class ProbeRefused(OtelUsdtError):
    """Attaching could harm the target, so it is refused (exit 5); the message says how."""

    exit_code = 5
    hint = "otel-usdt plan prints the reason and the remedy for each refused probe"


class KernelRefused(OtelUsdtError):
    """The kernel said no (exit 5)."""

    exit_code = 5
    hint = "otel-usdt doctor says what this kernel offers"


class CompilerMissing(OtelUsdtError):
    """No fitting kernel image is cached and BCC is not there to make one (exit 5)."""

    exit_code = 5
    hint = "apt-get install python3-bpfcc (never pip install bcc), or install a package that carries the kernel image"


_BY_NAME: dict[str, type[OtelUsdtError]] = {}


def from_dict(told: dict[str, Any]) -> OtelUsdtError:
    """The error that `to_dict` of another process described; an unknown kind becomes the base with its exit code kept."""
    if not _BY_NAME:
        kinds = [OtelUsdtError]
        while kinds:
            kind = kinds.pop()
            _BY_NAME[kind.__name__] = kind
            kinds.extend(kind.__subclasses__())
    kind = _BY_NAME.get(str(told.get("error")), OtelUsdtError)
    return kind(str(told.get("message")), hint=str(told.get("hint") or ""))
