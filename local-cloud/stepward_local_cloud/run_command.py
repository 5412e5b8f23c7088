"""Commands of SSM's Run Command: their target instances, their scheduling and their status.

`command_node.py` runs the commands. The docstring of `ssm.py` describes the instances and the
differences from AWS.
"""

import collections
import contextlib
import os
import queue
import signal
import threading
import time
from pathlib import Path

from ministack.core.responses import get_account_id, get_region, new_uuid
from ministack.services import ec2

POLL_INTERVAL = 0.25  # seconds between two checks of commands that wait for an instance or expire
NEVER_RAN = -1

DOCUMENTS = {
    "AWS-RunShellScript": ("aws:runShellScript", "sh"),
    "AWS-RunPowerShellScript": ("aws:runPowerShellScript", "ps1"),
}

# An instance has one directory, its home. The agent's files, which are on a real instance, are in a
# separate directory. Both are below a private directory of this process and not below the directory
# for temporary files, whose path would show in outputs where the checkout is.
root = Path("/tmp") / f"stepward-nodes-{new_uuid()}"
nodes, agent = root / "nodes", root / "agent"
unfinished = {}  # Command by ID
changing = threading.RLock()
to_run = queue.SimpleQueue()


class Invocation:
    """One command on one instance."""

    __slots__ = (
        "command",
        "node",
        "status",
        "details",
        "code",
        "started",
        "ended",
        "cancelled",
        "process",
    )

    def __init__(self, command, node):
        self.command, self.node = command, node
        self.status = self.details = "Pending"
        self.code, self.started, self.ended, self.cancelled, self.process = (
            NEVER_RAN,
            None,
            None,
            False,
            None,
        )

    def file(self, kind):
        return agent / f"{self.command.id}.{self.node}.{kind}"


class Command:
    def __init__(self, request, document, parameters, targets):
        self.scope = (get_account_id(), get_region())
        self.id, self.requested, self.cancelled = new_uuid(), time.time(), False
        self.request, self.document, self.parameters = request, document, parameters
        self.plugin, self.script = DOCUMENTS[document]
        self.limit = int(parameters.get("executionTimeout", ["3600"])[0])
        self.starts_until = self.requested + request.get("TimeoutSeconds", 3600)
        self.expires = self.starts_until + self.limit
        self.invocations = {node: Invocation(self, node) for node in targets}
        self.waiting = collections.deque(self.invocations.values())
        self.delayed = []
        self.running, self.left = 0, len(targets)
        self.ends = collections.Counter()  # invocations that have ended, by StatusDetails
        self.concurrency = max(1, absolute_limit(request.get("MaxConcurrency", "50"), len(targets)))
        self.max_errors = absolute_limit(request.get("MaxErrors", "0"), len(targets))

    def errors(self):
        return self.ends["Failed"] + self.ends["ExecutionTimedOut"]

    def status(self):
        """Returns Status and StatusDetails for all instances together."""
        if self.left:
            started = self.running or self.left < len(self.invocations)
            if self.cancelled:
                return "Cancelling", "Cancelling"
            return (
                ("InProgress", "InProgress")
                if started
                else ("Pending", "Delayed" if self.delayed else "Pending")
            )
        if not self.invocations:
            return "Success", "NoInstancesInTag"
        if self.ends["Cancelled"]:
            return "Cancelled", "Cancelled"
        threshold = max(1, self.max_errors)
        if self.ends["ExecutionTimedOut"] >= threshold:
            return "TimedOut", "ExecutionTimedOut"
        if self.errors() >= threshold or self.ends["Undeliverable"] == len(self.invocations):
            return "Failed", "Failed"
        if self.ends["DeliveryTimedOut"] >= threshold:
            return "TimedOut", "DeliveryTimedOut"
        if self.ends["Success"] + self.ends["Undeliverable"] == len(self.invocations):
            return "Success", "Success"
        return "Failed", "Incomplete"


def absolute_limit(limit, total):
    return total * int(limit[:-1]) // 100 if limit.endswith("%") else int(limit)


def advance(command):
    """Starts or ends waiting invocations. Called periodically and after each end of one."""
    with changing:
        now = time.time()
        returned = [
            invocation
            for invocation in command.delayed
            if ping(*command.scope, invocation.node) != "Stopped"
        ]
        command.delayed = [
            invocation for invocation in command.delayed if invocation not in returned
        ]
        command.waiting.extendleft(reversed(returned))
        if command.errors() > command.max_errors or now >= command.expires:
            late = [*command.delayed, *command.waiting]
            command.delayed.clear()
            command.waiting.clear()
            for invocation in late:
                if now >= command.expires:
                    end_invocation(invocation, "TimedOut", "DeliveryTimedOut")
                else:
                    end_invocation(invocation, "Cancelled", "Terminated")
        may_begin = now < command.starts_until and not command.cancelled
        while may_begin and command.waiting and command.running < command.concurrency:
            deliver(command.waiting.popleft())


def deliver(invocation):
    command = invocation.command
    status = ping(*command.scope, invocation.node)
    if status == "Online":
        invocation.status = invocation.details = "InProgress"
        command.running += 1
        to_run.put(invocation)
    elif status == "Stopped":
        invocation.details = "Delayed"
        command.delayed.append(invocation)
    else:
        end_invocation(invocation, "Failed", "Undeliverable")


def end_invocation(invocation, status, details, code=NEVER_RAN):
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


def cancel_invocation(invocation):
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
        command.waiting = collections.deque(
            other for other in command.waiting if other is not invocation
        )
        command.delayed = [other for other in command.delayed if other is not invocation]
        end_invocation(invocation, "Cancelled", "Cancelled")


def poll_commands():
    while True:
        time.sleep(POLL_INTERVAL)
        for command in list(unfinished.values()):
            if command.delayed or time.time() >= command.expires:
                advance(command)


def ping(account, region, node):
    """Returns Online, ConnectionLost or Stopped, or None if SSM does not know the instance."""
    instance = ec2._instances.get_scoped(account, region, node)
    if not instance:
        return None
    known = instance.get("IamInstanceProfile") or node in instances_with_profile(account, region)
    return ping_instance(instance, known)


def instances_with_profile(account, region):
    records = ec2._iam_instance_profile_associations.values_scoped(account, region)
    return {record["InstanceId"] for record in records}


def ping_instance(instance, known):
    state = instance["State"]["Name"]
    if not known or state in ("shutting-down", "terminated"):
        return None
    if state != "running":
        return "Stopped"
    return "Online" if instance.get("IamInstanceProfile") else "ConnectionLost"


def kill(process):
    # The process has not been waited for, so its ID cannot belong to another process.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
