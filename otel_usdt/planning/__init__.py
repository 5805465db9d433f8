"""Config + processes + binaries -> Plan. Reads /proc and ELF files, changes nothing; every fault is told at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from otel_usdt.config import Config, TargetConfig, export_of, histogram_type
from otel_usdt.elf.placement import instruction_text
from otel_usdt.errors import BuildIdMismatch, OtelUsdtError, ProbeRefused, TargetNotFound, UsageError
from otel_usdt.ladder import BOUNDS_NS
from otel_usdt.layout import layout_of
from otel_usdt.plan import MAX_ROWS, MAX_SITES, MAX_SPANS, Binary, Lease, Limits, Plan, Target, Telemetry
from otel_usdt.planning.arguments import Usual
from otel_usdt.planning.find import Files
from otel_usdt.planning.placing import place
from otel_usdt.planning.spans import Draft, add_span
from otel_usdt.targets.identity import resource_of
from otel_usdt.targets.mapped import who_maps
from otel_usdt.targets.process import MappedFile, binaries_of, resolve_pid
from otel_usdt.targets.select import descendants, roots, select

# Tried on 6.18: the kernel takes the higher stack for a longjmp, forgets the outer calls, and ends the process when they return.
SIGNAL_STACKS = (
    "{}: it uses sigaltstack. If a signal handler on an alternate stack that lies above the thread's own calls a function probed here,"
    " within a call of one, the kernel ends the process with SIGILL: do not probe functions that its signal handlers call"
)
FEW = 8  # processes outside the scope that a probe may trap before `outsiders: allow` is wanted


def make_plan(config: Config, environ: Mapping[str, str], folder: Path, *, disassembled: bool = False) -> Plan:
    """The plan of `config`. `folder` is where relative paths start. Raises one error that tells all faults.

    Its sites tell their instructions when it is to be `disassembled`: for people, at the price of loading the disassembler.
    """
    draft, targets = Draft(), []
    bounds_ns = None if histogram_type(config, environ) == "exponential" else config.histogram.buckets_ns or BOUNDS_NS
    faults: list[OtelUsdtError] = []
    for i, wanted in enumerate(config.targets):
        try:
            pids, files = _files(wanted, _pids(wanted), folder)
            _check_build(wanted, files)
        except OtelUsdtError as error:
            faults.append(error)
            continue
        usual = Usual(wanted.capture.text, bounds_ns, config.histogram.max_series)
        for span in wanted.spans:
            try:
                add_span(draft, files, span, i, usual, config.limits.max_probes)
            except OtelUsdtError as error:
                faults.append(error)
        if not wanted.capture.text and any(one.as_ == "string" for span in wanted.spans for one in span.attributes.values()):
            draft.notes.append(f"{wanted.name or 'target'}: text is not captured; capture: {{text: true}} turns it on")
        try:
            targets.append(_target(draft, i, wanted, pids, files))
        except OtelUsdtError as error:
            faults.append(error)
    if faults:
        raise _all(faults)
    if len(draft.spans) > MAX_SPANS or len(draft.sites) > MAX_SITES:
        raise UsageError(
            f"{len(draft.spans)} span probes at {len(draft.sites)} sites: a session holds at most {MAX_SPANS} at {MAX_SITES}",
            hint="narrow the globs, or run several sessions",
        )
    if (rows := layout_of(draft.spans).rows) > MAX_ROWS:
        raise UsageError(
            f"{rows} series of histograms: a session holds at most {MAX_ROWS}", hint="lower max_series, or take dimensions away"
        )
    if not draft.sites:
        first = draft.refused[0]
        raise ProbeRefused("\n".join(f"{one.probe}: {one.reason}" for one in draft.refused), hint=first.remedy)
    placed = place(draft.sites, draft.functions)
    export = export_of(config.export, environ)
    if export.otlp:
        from otel_usdt.otlp.endpoint import check_export  # brings OpenSSL, which no other plan needs

        check_export(export.otlp)
    sites, binaries = placed.sites, list(draft.binaries.values())
    if disassembled:
        sites = [replace(site, instruction=instruction_text(binaries[site.binary], site.address)) for site in sites]
    return Plan(
        targets=tuple(targets),
        binaries=tuple(Binary(one.path, one.name, one.build_id, one.device, one.inode, one.machine) for one in binaries),
        spans=tuple(draft.spans),
        sites=tuple(sites),
        refused=tuple(draft.refused),
        notes=tuple(dict.fromkeys([*draft.notes, *placed.notes])),
        lease=Lease(config.lease.owner or "", config.lease.reason or "", config.lease.ttl_s),
        export=export,
        limits=Limits(config.budget.records_per_second, config.limits.ring_bytes, config.limits.text_ring_bytes),
        pipeline_user=config.pipeline.user,
        telemetry=Telemetry(config.telemetry.listen or ""),
        bpf_fs=config.obi.bpf_fs_path,
        max_buckets=config.histogram.max_size,
    )


def _all(faults: list[OtelUsdtError]) -> OtelUsdtError:
    """One error of the first's kind that tells them all."""
    if len(faults) == 1:
        return faults[0]
    hints = dict.fromkeys(fault.hint for fault in faults if fault.hint)
    return type(faults[0])("\n".join(dict.fromkeys(map(str, faults))), hint="; ".join(hints))


def _pids(wanted: TargetConfig) -> list[int]:
    if wanted.select.pid is not None:
        resolve_pid(wanted.select.pid)  # its errors know of other pid namespaces
    pids = select(wanted.select)
    return roots(pids) if wanted.scope == "tree" else pids


def _files(wanted: TargetConfig, pids: list[int], folder: Path) -> tuple[list[int], Files]:
    """The files of those of `pids` that are still there: of many processes some end while we look."""
    if wanted.select.binary is not None:
        path = folder / wanted.select.binary
        try:
            status = path.stat()
        except OSError as error:
            raise TargetNotFound(f"{path}: {error.strerror}") from error
        return pids, Files([MappedFile(str(path), str(path), status.st_dev, status.st_ino, False)], [])
    programs: dict[tuple[int, int], MappedFile] = {}
    libraries: dict[tuple[int, int], MappedFile] = {}
    alive: list[int] = []
    for pid in pids:
        try:
            program, *others = binaries_of(pid)
        except TargetNotFound:
            if not alive and pid == pids[-1]:
                raise
            continue
        alive.append(pid)
        programs.setdefault((program.device, program.inode), program)
        for one in others:
            libraries.setdefault((one.device, one.inode), one)
    root = f"/proc/{alive[0]}/root" if wanted.scope == "tree" and alive else ""
    return alive, Files(list(programs.values()), list(libraries.values()), root)


def _check_build(wanted: TargetConfig, files: Files) -> None:
    for program in files.programs if wanted.build_id else ():
        found = files.binary(program).build_id
        if not found.startswith(wanted.build_id or ""):
            raise BuildIdMismatch(f"{program.name} has build id {found or '(none)'}, not {wanted.build_id}")


def _target(draft: Draft, index: int, wanted: TargetConfig, pids: list[int], files: Files) -> Target:
    """Who the target is, and the blast radius: which processes will be trapped, in and outside its scope."""
    name = wanted.name or os.path.basename(files.programs[0].name)  # noqa: PTH119 (a path of another mount namespace)
    mine = [i for i, span in enumerate(draft.spans) if span.target == index]
    used = {site.binary for site in draft.sites if site.span in mine}
    mapped = {i: who_maps(binary.device, binary.inode) for i, binary in enumerate(draft.binaries.values()) if i in used}
    everyone = set().union(*mapped.values()) if mapped else set()
    covered = set(pids) if wanted.scope == "pid" else {one for pid in pids for one in descendants(pid)}
    if wanted.scope == "binary":
        covered = everyone
    outsiders = set() if wanted.scope == "pid" else everyone - covered
    if len(outsiders) > FEW and wanted.outsiders == "refuse":
        crowded = max(mapped, key=lambda i: len(mapped[i] - covered))
        raise ProbeRefused(
            f"{list(draft.binaries.values())[crowded].name} is mapped by {len(outsiders)} processes outside the scope of {name},"
            " which would be trapped at every hit as well",
            hint="use scope: pid (one process, all its threads), or accept it with outsiders: allow",
        )
    if any(site.uretprobe for site in draft.sites if site.span in mine) and any(
        files.binary(one).imports("sigaltstack") for one in files.programs
    ):
        draft.notes.append(SIGNAL_STACKS.format(name))
    if outsiders:
        draft.notes.append(f"{name}: {len(outsiders)} processes outside the scope map the same file and pay for each hit as well")
    resource = (resource_of(pids[0]) if pids else None) or {"service.name": name}
    return Target(name, wanted.scope, tuple(pids), resource, len(everyone & covered), len(outsiders), wanted.sample, wanted.join)
