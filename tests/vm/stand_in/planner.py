"""Stands in for the planner where Python's start takes seconds: the plan was made elsewhere, and the processes are other ones here.

PLAN in the environment is a file with the plan; HERE one with what is otherwise here: pids, the program's path, the bpffs.
"""

import json
import os
import sys
from pathlib import Path

plan, here = (json.loads(Path(os.environ[name]).read_text()) for name in ("PLAN", "HERE"))
sys.stdin.read()
for target in plan["targets"]:
    target["pids"] = [here["pids"][str(pid)] for pid in target["pids"]]
plan["bpf_fs"] = here["bpf_fs"]
for binary in plan["binaries"]:
    told = Path(here["program"]).stat()
    binary |= {"path": here["program"], "device": told.st_dev, "inode": told.st_ino}
json.dump(plan, sys.stdout)
