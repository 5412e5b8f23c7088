"""Runs commands of Run Command as processes of this machine, in one directory per instance.

Exit codes, and the files in logs and buckets, are those of SSM Agent:
https://github.com/aws/amazon-ssm-agent.
"""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ministack.core.responses import new_uuid, request_scope
from ministack.services import cloudwatch_logs as logs
from ministack.services import s3, ssm

from .run_command import (
    advance,
    agent,
    cancel_invocation,
    changing,
    end_invocation,
    kill,
    nodes,
    poll_commands,
    root,
    to_run,
    unfinished,
)

PROCESSES = 32  # at the same time, for all commands, accounts and Regions
STREAM_LIMIT = 64 << 20  # maximum bytes of a stream in the log and the bucket
SHOWN = 100_000  # bytes of a stream that are kept after that; the API shows no more
LOG_EVENT = 200_000  # bytes

STOPPED, REBOOT = 137, 194  # exit codes with a special meaning for the agent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run_invocations():
    while True:
        invocation = to_run.get()
        with request_scope(*invocation.command.scope):
            try:
                run_invocation(invocation)
            except Exception as error:
                ssm.logger.exception("%s on %s", invocation.command.id, invocation.node)
                with contextlib.suppress(OSError):
                    append_output(invocation, "stderr", f"failed to run commands: {error}")
                end_invocation(invocation, "Failed", "Failed", 1)
            advance(invocation.command)


def run_invocation(invocation):
    command = invocation.command
    with changing:
        if invocation.cancelled:
            return end_invocation(invocation, "Cancelled", "Cancelled")
        if time.time() >= command.expires:
            return end_invocation(invocation, "TimedOut", "DeliveryTimedOut")
        invocation.started = time.time()
    home, script = nodes / invocation.node, invocation.file(command.script)
    for directory in (root, nodes, home, agent):
        directory.mkdir(0o700, exist_ok=True)
    script.write_text("\n".join(command.parameters["commands"]) + "\n")
    code = REBOOT
    while code == REBOOT:
        code, reason = run_script(invocation, script, home)
    if invocation.cancelled and code == STOPPED:
        status = details = "Cancelled"
    elif code == STOPPED:  # the agent reports this for any process that exits with it
        status, details = "TimedOut", "ExecutionTimedOut"
    elif code == 0:
        status = details = "Success"
    else:
        status = details = "Failed"
        append_output(invocation, "stderr", f"failed to run commands: {reason}")
    script.unlink(missing_ok=True)
    publish(invocation)
    end_invocation(invocation, status, details, code)


def run_script(invocation, script, home):
    """Returns the exit code, and the reason for a code other than 0."""
    command = invocation.command
    _, region = command.scope
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
            start_new_session=True,  # so that its whole group can be killed
        )
    except OSError as error:
        return 1, str(error)
    with changing:
        invocation.process = process
        if invocation.cancelled:
            kill(process)
    try:
        stopped = collect_output(invocation, process)
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
    # An interpreter reads the script, because the kernel would refuse to execute it while a process
    # that another thread starts has it open for writing (see `function_code.py`).
    if script.suffix == ".ps1":
        return ["pwsh", "-File"]
    with script.open() as lines:
        first = lines.readline().strip()
    return (
        first[2:].strip().split(None, 1) if first[:2] == "#!" and first[2:].strip() else ["/bin/sh"]
    )


def collect_output(invocation, process):
    """Writes the output to files until all processes have closed it.

    Returns whether the time limit was reached.
    """
    until = invocation.started + invocation.command.limit
    with contextlib.ExitStack() as stack:
        pipes = stack.enter_context(selectors.DefaultSelector())
        for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr)):
            pipes.register(
                pipe, selectors.EVENT_READ, stack.enter_context(open(invocation.file(name), "ab"))
            )
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


def append_output(invocation, stream, text):
    with open(invocation.file(stream), "a") as file:
        file.write(text)


def publish(invocation):
    """Writes the whole output to the log and the bucket, and keeps the part that the API shows."""
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
            put_log_events(output_log_group(command), name, file.read_bytes())
        if bucket:
            s3._put_object(bucket, output_key(invocation, stream), file.read_bytes(), {})
        os.truncate(file, min(file.stat().st_size, SHOWN))


def output_log_group(command):
    config = command.request.get("CloudWatchOutputConfig") or {}
    return config.get("CloudWatchLogGroupName") or f"/aws/ssm/{command.document}"


def put_log_events(group, stream, data):
    """Combines many lines in one event, as the agent does."""
    logs._create_log_group({"logGroupName": group})
    logs._create_log_stream({"logGroupName": group, "logStreamName": stream})
    events, event = [], b""
    lines = (
        line[at : at + LOG_EVENT]
        for line in data.splitlines(True)
        for at in range(0, len(line), LOG_EVENT)
    )
    for line in lines:
        if event and len(event) + len(line) > LOG_EVENT:
            events.append(event)
            event = b""
        event += line
    now = int(time.time() * 1000)
    texts = [part.removesuffix(b"\n").decode(errors="replace") for part in [*events, event]]
    written = [{"timestamp": now, "message": text} for text in texts if text]
    logs._put_log_events({"logGroupName": group, "logStreamName": stream, "logEvents": written})


def output_key(invocation, stream):
    command = invocation.command
    plugin = command.plugin.replace(":", "")
    prefix = (command.request.get("OutputS3KeyPrefix") or "").strip("/")
    parts = [prefix, command.id, invocation.node, plugin, f"0.{plugin}", stream]
    return "/".join(part for part in parts if part)


def reset():
    """Ends all commands and removes the directories of the instances."""
    with changing:
        for command in list(unfinished.values()):
            command.cancelled = True
            for invocation in command.invocations.values():
                cancel_invocation(invocation)
        unfinished.clear()
    if not root.exists():
        return
    old = root / f"old-{new_uuid()}"
    old.mkdir(0o700)
    for folder in filter(Path.exists, (nodes, agent)):
        folder.rename(old / folder.name)
    # On some file systems the removal of a directory takes milliseconds, and there can be
    # thousands.
    threading.Thread(target=shutil.rmtree, args=[old, True], daemon=True).start()


# A command has its own process group and may have started other processes, so it survives a SIGKILL
# of this process and its group. A watcher process waits until this process has ended. Then it kills
# every process whose home or working directory belongs to an instance, and removes the directories.
# Until then it holds the lock.
WATCHER = """
import os, shutil, signal, sys, time
sys.stdin.buffer.read()
nodes = sys.argv[1].encode() + b"/"
until = time.time() + 8
found = True
while found and time.time() < until:
    found = False
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            has_node_home = b"HOME=" + nodes in open(f"/proc/{process}/environ", "rb").read()
            if has_node_home or os.readlink(f"/proc/{process}/cwd".encode()).startswith(nodes):
                os.kill(int(process), signal.SIGKILL)
                found = True
        except OSError:
            pass
shutil.rmtree(os.path.dirname(sys.argv[1]), ignore_errors=True)
"""
lock_file = None
threads = []


def start_threads():
    with changing:
        if threads:
            return
        watcher = [sys.executable, "-c", WATCHER, str(nodes)]
        threads.append(
            subprocess.Popen(
                watcher,
                cwd="/",
                stdin=subprocess.PIPE,
                pass_fds=[lock_file.fileno()],
                start_new_session=True,
            )
        )
        for task in [poll_commands, *[run_invocations] * PROCESSES]:
            threads.append(threading.Thread(target=task, daemon=True))
            threads[-1].start()
