"""Stands in for the pipeline: when all is detached it writes down everything that it was handed, for the real one to read elsewhere.

OUT in the environment is a folder: `message` is what the supervisor said, 0, 1, ... the contents of the descriptors that came with it, maps
as they are when they are mapped (kernel/bpf/ringbuf.c, arraymap.c).
"""

import json
import mmap
import os
import socket
import sys
from pathlib import Path

from otel_usdt.channel import Channel

RINGBUF = 27  # include/uapi/linux/bpf.h, enum bpf_map_type


def write(descriptor: int, path: Path) -> int:
    """A map, or a file; its whole size. Of a ring only what was used is written, and it must not have begun anew."""
    told = dict(line.split(":\t", 1) for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines() if ":\t" in line)
    if "map_type" not in told:
        return path.write_bytes(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    entries, page = int(told["max_entries"]), mmap.PAGESIZE
    if int(told["map_type"]) != RINGBUF:
        return path.write_bytes(mapped(descriptor, 0, (int(told["value_size"]) + 7) // 8 * 8 * entries))
    produced = int.from_bytes(mapped(descriptor, page, page)[:8], "little")
    assert produced <= entries
    path.write_bytes(mapped(descriptor, 0, page) + mapped(descriptor, page, page + produced))
    return 2 * page + 2 * entries


def mapped(descriptor: int, at: int, size: int) -> bytes:
    """Of whole pages."""
    return bytes(mmap.mmap(descriptor, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ, offset=at))


pipe = Channel(socket.socket(fileno=int(sys.argv[1])))
handed = pipe.receive()
assert handed
message, descriptors = handed
while (said := pipe.receive()) and "detached" not in said[0]:
    continue
out = Path(os.environ["OUT"])
sizes = [write(descriptor, out / str(number)) for number, descriptor in enumerate(descriptors)]
(out / "message").write_text(json.dumps({**message, "sizes": sizes}))
