"""Runs a program: `measure.py SECONDS PROGRAM ARGUMENT…`, with the seconds after which it is ended.

Prints its exit status, what it took (wall and processor seconds, its children's included) and the peak of its memory
in bytes, as Linux counts them for a process that has ended: these are exact, and samples of a running process are not.
"""

import json
import os
import subprocess
import sys
import threading
import time

limit, *command = sys.argv[1:]
started = time.monotonic()
child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
end = threading.Timer(float(limit), child.kill)
end.start()
_, status, usage = os.wait4(child.pid, 0)
wall = time.monotonic() - started
end.cancel()
# The peak is at least this interpreter's own 10 MB, which the child had before it became the program.
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
cpu = usage.ru_utime + usage.ru_stime
print(
    json.dumps(
        {"status": os.waitstatus_to_exitcode(status), "wall": wall, "cpu": cpu, "peak": peak}
    )
)
