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


def contents(descriptor: int) -> bytes:
    """Of a map, or of a file."""
    told = dict(line.split(":\t", 1) for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines() if ":\t" in line)
    if "map_type" not in told:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    entries = int(told["max_entries"])
    if int(told["map_type"]) == RINGBUF:
        return mapped(descriptor, 0, mmap.PAGESIZE) + mapped(descriptor, mmap.PAGESIZE, mmap.PAGESIZE + 2 * entries)
    return mapped(descriptor, 0, (int(told["value_size"]) + 7) // 8 * 8 * entries)


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
for number, descriptor in enumerate(descriptors):
    (out / str(number)).write_bytes(contents(descriptor))
(out / "message").write_text(json.dumps({**message, "descriptors": len(descriptors)}))
