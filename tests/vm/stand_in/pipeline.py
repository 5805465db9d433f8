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


def write(descriptor: int, path: Path) -> None:
    """A map, or a file. Of a ring only as much as was used: the rest is a hole, and it must not have begun anew."""
    told = dict(line.split(":\t", 1) for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines() if ":\t" in line)
    if "map_type" not in told:
        path.write_bytes(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        return
    entries, page = int(told["max_entries"]), mmap.PAGESIZE
    if int(told["map_type"]) != RINGBUF:
        path.write_bytes(mapped(descriptor, 0, (int(told["value_size"]) + 7) // 8 * 8 * entries))
        return
    produced = int.from_bytes(mapped(descriptor, page, page)[:8], "little")
    assert produced <= entries
    path.write_bytes(mapped(descriptor, 0, page) + mapped(descriptor, page, page + produced))
    os.truncate(path, 2 * page + 2 * entries)


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
    write(descriptor, out / str(number))
(out / "message").write_text(json.dumps({**message, "descriptors": len(descriptors)}))
