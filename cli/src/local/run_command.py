"""What happens to a command of Run Command: it goes to the nodes, runs there, and its output is put where it belongs.

The behaviour of the agent, its exit codes and its files in logs and buckets, is that of SSM Agent:
https://github.com/aws/amazon-ssm-agent. `ssm.py` says which nodes there are and what differs from AWS.
"""

import collections
import contextlib
import os
import queue
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ministack.core.responses import get_account_id, get_region, new_uuid, request_scope
from ministack.services import cloudwatch_logs as logs
from ministack.services import ec2, s3, ssm

PROCESSES = 32  # at once, over all commands, accounts and Regions
TICK = 0.25  # seconds between two looks at what waits for a node or has expired

STREAM_LIMIT = 64 << 20  # bytes that are kept of a stream until it is where it was asked for
SHOWN = 100_000  # bytes that are kept after that: all that the API shows
LOG_EVENT = 200_000  # bytes

STOPPED, REBOOT = 137, 194  # exit codes that mean something to the agent
NEVER_RAN = -1
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DOCUMENTS = {
    "AWS-RunShellScript": ("aws:runShellScript", "sh"),
    "AWS-RunPowerShellScript": ("aws:runPowerShellScript", "ps1"),
}

# A node's directory, its home, is all that it has; what the agent keeps on a real node lies beside them.
temporary = Path(os.environ["TMPDIR"]).resolve()
nodes, agent = temporary / "nodes", temporary / "agent"
unfinished = {}
changing = threading.RLock()
to_run = queue.SimpleQueue()


class Invocation:
    """One command on one node."""

    __slots__ = ("command", "node", "status", "details", "code", "started", "ended", "cancelled", "process")

    def __init__(self, command, node):
        self.command, self.node = command, node
        self.status = self.details = "Pending"
        self.code, self.started, self.ended, self.cancelled, self.process = NEVER_RAN, None, None, False, None

    def file(self, kind):
        return agent / f"{self.command.id}.{self.node}.{kind}"


class Command:
    def __init__(self, request, document, parameters, targets):
        self.scope = (get_account_id(), get_region())
        self.id, self.asked, self.cancelled = new_uuid(), time.time(), False
        self.request, self.document, self.parameters = request, document, parameters
        self.plugin, self.script = DOCUMENTS[document]
        self.limit = int(parameters.get("executionTimeout", ["3600"])[0])
        self.starts_until = self.asked + request.get("TimeoutSeconds", 3600)
        self.expires = self.starts_until + self.limit
        self.invocations = {node: Invocation(self, node) for node in targets}
        self.waiting = collections.deque(self.invocations.values())
        self.delayed = []
        self.running, self.left = 0, len(targets)
        self.ends = collections.Counter()  # StatusDetails of what is over
        self.at_once = max(1, share(request.get("MaxConcurrency", "50"), len(targets)))
        self.most_errors = share(request.get("MaxErrors", "0"), len(targets))

    def errors(self):
        return self.ends["Failed"] + self.ends["ExecutionTimedOut"]

    def status(self):
        """Status and StatusDetails over all nodes."""
        if self.left:
            begun = self.running or self.left < len(self.invocations)
            if self.cancelled:
                return "Cancelling", "Cancelling"
            return ("InProgress", "InProgress") if begun else ("Pending", "Delayed" if self.delayed else "Pending")
        if not self.invocations:
            return "Success", "NoInstancesInTag"
        if self.ends["Cancelled"]:
            return "Cancelled", "Cancelled"
        enough = max(1, self.most_errors)
        if self.ends["ExecutionTimedOut"] >= enough:
            return "TimedOut", "ExecutionTimedOut"
        if self.errors() >= enough or self.ends["Undeliverable"] == len(self.invocations):
            return "Failed", "Failed"
        if self.ends["DeliveryTimedOut"] >= enough:
            return "TimedOut", "DeliveryTimedOut"
        if self.ends["Success"] + self.ends["Undeliverable"] == len(self.invocations):
            return "Success", "Success"
        return "Failed", "Incomplete"


def share(limit, of):
    return of * int(limit[:-1]) // 100 if limit.endswith("%") else int(limit)


# --- From the command to the nodes ---


def go_on(command):
    """Begins what may begin and ends what may not; called when something ended, and by the clock."""
    with changing:
        now = time.time()
        back = [invocation for invocation in command.delayed if ping(*command.scope, invocation.node) != "Stopped"]
        command.delayed = [invocation for invocation in command.delayed if invocation not in back]
        command.waiting.extendleft(reversed(back))
        if command.errors() > command.most_errors or now >= command.expires:
            over = [*command.delayed, *command.waiting]
            command.delayed.clear()
            command.waiting.clear()
            for invocation in over:
                if now >= command.expires:
                    end(invocation, "TimedOut", "DeliveryTimedOut")
                else:
                    end(invocation, "Cancelled", "Terminated")
        may_begin = now < command.starts_until and not command.cancelled
        while may_begin and command.waiting and command.running < command.at_once:
            deliver(command.waiting.popleft())


def deliver(invocation):
    command = invocation.command
    reached = ping(*command.scope, invocation.node)
    if reached == "Online":
        invocation.status = invocation.details = "InProgress"
        command.running += 1
        to_run.put(invocation)
    elif reached == "Stopped":
        invocation.details = "Delayed"
        command.delayed.append(invocation)
    else:
        end(invocation, "Failed", "Undeliverable")


def end(invocation, status, details, code=NEVER_RAN):
    with changing:
        command = invocation.command
        if invocation.ended is not None:
            return
        command.running -= invocation.status in ("InProgress", "Cancelling")
        command.left -= 1
        command.ends[details] += 1
        invocation.status, invocation.details, invocation.code = status, details, code
        invocation.ended, invocation.process = time.time(), None
        if not command.left:
            unfinished.pop(command.id, None)


def cancel(invocation):
    with changing:
        command = invocation.command
        if invocation.ended is not None:
            return
        if invocation.status in ("InProgress", "Cancelling"):
            invocation.status = invocation.details = "Cancelling"
            invocation.cancelled = True
            if invocation.process:
                kill(invocation.process)
            return
        command.waiting = collections.deque(other for other in command.waiting if other is not invocation)
        command.delayed = [other for other in command.delayed if other is not invocation]
        end(invocation, "Cancelled", "Cancelled")


def watch_the_clock():
    while True:
        time.sleep(TICK)
        for command in list(unfinished.values()):
            if command.delayed or time.time() >= command.expires:
                go_on(command)


def ping(account, region, node):
    """Online, ConnectionLost or Stopped; None when SSM does not know the instance."""
    instance = ec2._instances.get_scoped(account, region, node)
    if not instance:
        return None
    known = instance.get("IamInstanceProfile") or node in had_profiles(account, region)
    return ping_instance(instance, known)


def had_profiles(account, region):
    records = ec2._iam_instance_profile_associations.values_scoped(account, region)
    return {record["InstanceId"] for record in records}


def ping_instance(instance, known):
    state = instance["State"]["Name"]
    if not known or state in ("shutting-down", "terminated"):
        return None
    if state != "running":
        return "Stopped"
    return "Online" if instance.get("IamInstanceProfile") else "ConnectionLost"


# --- On the node ---


def work():
    while True:
        invocation = to_run.get()
        with request_scope(*invocation.command.scope):
            try:
                run(invocation)
            except Exception as error:
                ssm.logger.exception("%s on %s", invocation.command.id, invocation.node)
                with contextlib.suppress(OSError):
                    write(invocation, "stderr", f"failed to run commands: {error}")
                end(invocation, "Failed", "Failed", 1)
            go_on(invocation.command)


def run(invocation):
    command = invocation.command
    with changing:
        if invocation.cancelled:
            return end(invocation, "Cancelled", "Cancelled")
        if time.time() >= command.expires:
            return end(invocation, "TimedOut", "DeliveryTimedOut")
        invocation.started = time.time()
    home, script = nodes / invocation.node, invocation.file(command.script)
    for made in (home, agent):
        made.mkdir(0o700, parents=True, exist_ok=True)
    script.write_text("\n".join(command.parameters["commands"]) + "\n")
    code = REBOOT
    while code == REBOOT:
        code, reason = run_script(invocation, script, home)
    if invocation.cancelled and code == STOPPED:
        status = details = "Cancelled"
    elif code == STOPPED:  # what the agent makes of it, whoever exits with it
        status, details = "TimedOut", "ExecutionTimedOut"
    elif code == 0:
        status = details = "Success"
    else:
        status = details = "Failed"
        write(invocation, "stderr", f"failed to run commands: {reason}")
    script.unlink(missing_ok=True)
    publish(invocation)
    end(invocation, status, details, code)


def run_script(invocation, script, home):
    """The exit code, and why it is not 0."""
    command = invocation.command
    account, region = command.scope
    environment = {
        "PATH": PATH,
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "AWS_DEFAULT_REGION": region,
        "AWS_SSM_REGION_NAME": region,
        "AWS_SSM_INSTANCE_ID": invocation.node,
        "INSTANCE_ID": invocation.node,
        "SSM_COMMAND_ID": command.id,
    }
    wanted = command.parameters.get("workingDirectory", [""])[0]
    program = interpreter(script)
    if not shutil.which(program[0], path=PATH):
        return 1 if program[0] == "pwsh" else 127, f"{program[0]}: not found on this machine"
    try:
        process = subprocess.Popen(
            [*program, str(script)],
            cwd=wanted if os.path.isabs(wanted) else home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that all of it can be killed
        )
    except OSError as error:
        return 1, str(error)
    with changing:
        invocation.process = process
        if invocation.cancelled:
            kill(process)
    try:
        stopped = collect(invocation, process)
    finally:
        for pipe in (process.stdout, process.stderr):
            pipe.close()
    with changing:
        invocation.process = None
    code = process.wait()
    if stopped or invocation.cancelled:
        return STOPPED, "stopped"
    if code < 0:
        return -1, f"signal: {signal.Signals(-code).name}"
    return code, f"exit status {code}"


def interpreter(script):
    # Not left to the kernel: it does not start a file while a process that another thread is starting has it open.
    if script.suffix == ".ps1":
        return ["pwsh", "-File"]
    with script.open() as lines:
        first = lines.readline().strip()
    return first[2:].strip().split(None, 1) if first[:2] == "#!" and first[2:].strip() else ["/bin/sh"]


def collect(invocation, process):
    """Writes output to files until the process and all who hold its output are gone; whether its time was over."""
    until = invocation.started + invocation.command.limit
    with contextlib.ExitStack() as stack:
        pipes = stack.enter_context(selectors.DefaultSelector())
        for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            pipes.register(pipe, selectors.EVENT_READ, stack.enter_context(open(invocation.file(name), "ab")))
        while True:
            if invocation.cancelled or time.time() >= until:
                kill(process)
                return True
            pause = max(0.01, min(0.2, until - time.time()))
            if not pipes.get_map():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(pause)
                    return False
            for key, _ in pipes.select(pause):
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    pipes.unregister(key.fileobj)
                elif key.data.tell() < STREAM_LIMIT:
                    key.data.write(chunk)


def kill(process):
    # Not waited for yet, so the number is still its own.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def write(invocation, stream, text):
    with open(invocation.file(stream), "a") as file:
        file.write(text)


def publish(invocation):
    """Whole outputs to logs and bucket; what stays is what the API shows."""
    command = invocation.command
    config = command.request.get("CloudWatchOutputConfig") or {}
    bucket = command.request.get("OutputS3BucketName")
    for stream in ("stdout", "stderr"):
        file = invocation.file(stream)
        if not file.exists():
            continue
        if not file.stat().st_size:
            file.unlink()
            continue
        if config.get("CloudWatchOutputEnabled"):
            name = f"{command.id}/{invocation.node}/{command.plugin.replace(':', '-')}/{stream}"
            log(log_group(command), name, file.read_bytes())
        if bucket:
            s3._put_object(bucket, key(invocation, stream), file.read_bytes(), {})
        os.truncate(file, min(file.stat().st_size, SHOWN))


def log_group(command):
    config = command.request.get("CloudWatchOutputConfig") or {}
    return config.get("CloudWatchLogGroupName") or f"/aws/ssm/{command.document}"


def log(group, stream, data):
    """Many lines to an event, as the agent does it."""
    logs._create_log_group({"logGroupName": group})
    logs._create_log_stream({"logGroupName": group, "logStreamName": stream})
    events, event = [], b""
    lines = (line[at : at + LOG_EVENT] for line in data.splitlines(True) for at in range(0, len(line), LOG_EVENT))
    for line in lines:
        if event and len(event) + len(line) > LOG_EVENT:
            events.append(event)
            event = b""
        event += line
    now = int(time.time() * 1000)
    texts = [part.removesuffix(b"\n").decode(errors="replace") for part in [*events, event]]
    written = [{"timestamp": now, "message": text} for text in texts if text]
    logs._put_log_events({"logGroupName": group, "logStreamName": stream, "logEvents": written})


def key(invocation, stream):
    command = invocation.command
    plugin = command.plugin.replace(":", "")
    prefix = (command.request.get("OutputS3KeyPrefix") or "").strip("/")
    parts = [prefix, command.id, invocation.node, plugin, f"0.{plugin}", stream]
    return "/".join(part for part in parts if part)


# --- Beginning and end ---


def forget_all():
    """Ends all commands; the nodes lose their directories."""
    with changing:
        for command in list(unfinished.values()):
            command.cancelled = True
            for invocation in command.invocations.values():
                cancel(invocation)
        unfinished.clear()
    old = temporary / f"old-{new_uuid()}"
    old.mkdir()
    for folder in filter(Path.exists, (nodes, agent)):
        folder.rename(old / folder.name)
    # On some file systems a directory takes milliseconds to go, and there may be thousands.
    threading.Thread(target=shutil.rmtree, args=[old, True], daemon=True).start()


# Commands outlive a kill of this process and its group: each has a group of its own, and may have begun others. So
# another process waits for the end of this one, however that comes, and ends all that is at home on a node. It holds
# the lock until then.
WATCHER = """
import os, signal, sys, time
sys.stdin.buffer.read()
nodes = sys.argv[1].encode() + b"/"
until = time.time() + 8
found = True
while found and time.time() < until:
    found = False
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            ours = b"HOME=" + nodes in open(f"/proc/{process}/environ", "rb").read()
            if ours or os.readlink(f"/proc/{process}/cwd".encode()).startswith(nodes):
                os.kill(int(process), signal.SIGKILL)
                found = True
        except OSError:
            pass
"""
lock_file = None
working = []


def start_working():
    with changing:
        if working:
            return
        watcher = [sys.executable, "-c", WATCHER, str(nodes)]
        working.append(
            subprocess.Popen(
                watcher, cwd="/", stdin=subprocess.PIPE, pass_fds=[lock_file.fileno()], start_new_session=True
            )
        )
        for task in [watch_the_clock, *[work] * PROCESSES]:
            working.append(threading.Thread(target=task, daemon=True))
            working[-1].start()
