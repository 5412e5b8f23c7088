"""Runs a program and measures it: `measure.py SECONDS PROGRAM ARGUMENT…`.

SECONDS is the time after which the program is killed. Prints the exit status, wall and CPU seconds
(including those of child processes), and the peak memory in bytes. The numbers come from the kernel
after the process has ended, because they are exact then. Samples of a running process are not.
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
# The peak is at least 10 MB, because the child was this interpreter before it executed the program.
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
cpu = usage.ru_utime + usage.ru_stime
print(
    json.dumps(
        {"status": os.waitstatus_to_exitcode(status), "wall": wall, "cpu": cpu, "peak": peak}
    )
)
