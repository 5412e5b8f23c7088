"""SSM: Run Command runs the commands as processes of this machine.

MiniStack runs commands in Docker containers, and returns Success for documents that it cannot run.
This module replaces its six operations. Sources: AWS's API reference
(https://docs.aws.amazon.com/systems-manager/latest/APIReference/),
https://docs.aws.amazon.com/systems-manager/latest/userguide/monitor-commands.html for statuses and
timeouts, and SSM Agent (https://github.com/aws/amazon-ssm-agent) for exit codes, truncation and the
locations of output. Statuses have the spelling of the API ("ExecutionTimedOut"), not that of the
guide ("Execution Timed Out").

These instances are nodes:
- A running instance with an instance profile is Online. SSM does not know a running instance
  without a profile, or a terminated instance. It refuses a call with such an instance:
  InvalidInstanceId.
- A stopped instance is not listed (API_DescribeInstanceInformation), but SSM knows it
  (API_SendCommand: "Valid states are: Running, Pending, Stopped, and Stopping"). Its invocation is
  Delayed. The command runs if the instance starts in time. Otherwise the invocation is
  DeliveryTimedOut.
- An instance that lost its profile while running is ConnectionLost. Its invocation is
  Undeliverable.

Differences from AWS: at most 64 MiB of output per stream are stored. Output is written to logs and
buckets when the command ends, without a check of the instance's role. Exit code 194 runs the script
again without a reboot. Windows and notifications are not supported.

GET /_stepward/ssm/calls returns how often each operation of SSM was called.
"""

import collections
import json
import threading
import time
from datetime import timezone

from ministack import app
from ministack.core.responses import (
    AccountRegionScopedDict,
    error_response_json,
    get_account_id,
    get_region,
    json_response,
)
from ministack.services import ec2, s3
from ministack.services import ssm as service

from . import command_node
from .run_command import (
    DOCUMENTS,
    Command,
    advance,
    cancel_invocation,
    changing,
    instances_with_profile,
    ping_instance,
    unfinished,
)
from .ssm_requests import (
    INSTANCE_ID,
    TIME_FILTERS,
    Refused,
    check,
    check_fields,
    expand_parameters,
    has_tag,
    invalid,
    list_filters,
    target_instances,
    timestamp,
)
from .ssm_responses import (
    iso_duration,
    iso_time,
    output_texts,
    output_url,
    page,
    show_command,
    show_invocation,
    show_node,
)

KEPT = 100_000  # invocations; above this limit the oldest ended commands are removed
# Seconds until a new invocation is found (API_GetCommandInvocation: "eventual consistency").
SHOWN_LATE = 0.2
LIST_FILTERS = (*TIME_FILTERS, "Status", "DocumentName")

commands = AccountRegionScopedDict()
kept = collections.deque()  # all commands, oldest first
calls = collections.Counter()  # by operation


def send_command(data):
    check_fields(data)
    document = data["DocumentName"].rpartition("/")[2]
    if document not in DOCUMENTS:
        raise Refused("InvalidDocument", f"Document with name {document} does not exist.")
    if data.get("DocumentVersion", "$DEFAULT") not in ("$DEFAULT", "$LATEST", "1"):
        raise Refused(
            "InvalidDocumentVersion", f"Document version {data['DocumentVersion']} does not exist."
        )
    if data.get("NotificationConfig") or data.get("AlarmConfiguration"):
        raise Refused(
            "InvalidNotificationConfig",
            "The local cloud supports neither notifications nor alarms.",
        )
    bucket = data.get("OutputS3BucketName")
    if bucket and s3._ensure_bucket(bucket) is None:
        raise Refused("InvalidOutputFolder", f"The S3 bucket {bucket} does not exist.")
    parameters = expand_parameters(data.get("Parameters") or {})
    command = Command(data, document, parameters, target_instances(data))
    with changing:
        commands[command.id] = command
        kept.append(command)
        unfinished[command.id] = command
        forget_old()
        response = show_command(command)
    command_node.start_threads()
    # The invocations start after the response, which has the status Pending.
    if command.left:
        threading.Timer(0.01, advance, [command]).start()
    else:
        unfinished.pop(command.id)
    return {"Command": response}


def cancel_command(data):
    check("commandId", data.get("CommandId"), r".{36}", required=True)
    command = commands.get(data["CommandId"])
    ids = data.get("InstanceIds") or []
    if command is None:
        raise Refused("InvalidCommandId", f"The command {data['CommandId']} does not exist.")
    if len(set(ids)) < len(ids):
        raise Refused("DuplicateInstanceId", "You can't specify an instance ID twice.")
    for node in ids:
        if node not in command.invocations:
            raise Refused("InvalidInstanceId", f"The command was not sent to {node}.")
    with changing:
        command.cancelled = command.cancelled or (not ids and bool(command.left))
        # In reverse order, because the end of a running invocation starts the next waiting one.
        for node in reversed(ids or list(command.invocations)):
            cancel_invocation(command.invocations[node])
    return {}


def forget_old():
    total = sum(len(command.invocations) for command in kept)
    while total > KEPT and not kept[0].left:
        command = kept.popleft()
        total -= len(command.invocations)
        commands.pop_scoped(*command.scope, command.id)
        for invocation in command.invocations.values():
            invocation.file("stdout").unlink(missing_ok=True)
            invocation.file("stderr").unlink(missing_ok=True)


def list_commands(data):
    check("commandId", data.get("CommandId"), r".{36}")
    wanted = list_filters(data, *LIST_FILTERS, "ExecutionStage")
    found = [
        command
        for command in reversed(commands.values())
        if data.get("CommandId") in (None, command.id)
        and (not data.get("InstanceId") or data["InstanceId"] in command.invocations)
        and all(matches_filter(command, command.status(), one) for one in wanted)
    ]
    return page("Commands", found, show_command, data, most=50)


def list_command_invocations(data):
    check("commandId", data.get("CommandId"), r".{36}")
    check("instanceId", data.get("InstanceId"), INSTANCE_ID)
    if data.get("CommandId"):
        command = commands.get(data["CommandId"])
        listed = [command] if command else []
    else:
        listed = reversed(commands.values())
    wanted = list_filters(data, *LIST_FILTERS)
    found = [
        invocation
        for command in listed
        if command.requested + SHOWN_LATE <= time.time()
        for invocation in command.invocations.values()
        if data.get("InstanceId") in (None, invocation.node)
        and all(
            matches_filter(command, (invocation.status, invocation.details), one) for one in wanted
        )
    ]
    details = bool(data.get("Details"))
    return page(
        "CommandInvocations",
        found,
        lambda invocation: show_invocation(invocation, details),
        data,
        most=50,
    )


def matches_filter(command, statuses, wanted):
    name, value = wanted["key"], wanted["value"]
    if name in TIME_FILTERS:
        moment = timestamp(value)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
        return command.requested >= moment if name == "InvokedAfter" else command.requested < moment
    if name == "Status":
        return value in statuses
    if name == "DocumentName":
        return value == command.document
    return value == ("Executing" if command.left else "Complete")


def get_command_invocation(data):
    check("commandId", data.get("CommandId"), r".{36}", required=True)
    check("instanceId", data.get("InstanceId"), INSTANCE_ID, required=True)
    command = commands.get(data["CommandId"])
    invocation = command and command.invocations.get(data["InstanceId"])
    if invocation is None or command.requested + SHOWN_LATE > time.time():
        raise Refused("InvocationDoesNotExist", "")
    if data.get("PluginName") not in (None, "", command.plugin):
        raise Refused("InvalidPluginName", f"The command has no plugin {data['PluginName']}.")
    shown = show_command(command)
    output, errors = output_texts(invocation)
    ended = invocation.ended if invocation.started else None
    same = ("CommandId", "Comment", "DocumentName", "DocumentVersion", "CloudWatchOutputConfig")
    return {
        **{name: shown[name] for name in same},
        "InstanceId": invocation.node,
        "PluginName": command.plugin,
        "ResponseCode": invocation.code,
        "ExecutionStartDateTime": iso_time(invocation.started),
        "ExecutionElapsedTime": iso_duration(ended - invocation.started) if ended else "",
        "ExecutionEndDateTime": iso_time(ended),
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "StandardOutputContent": output,
        "StandardOutputUrl": output_url(invocation, "stdout"),
        "StandardErrorContent": errors,
        "StandardErrorUrl": output_url(invocation, "stderr") if invocation.ended else "",
    }


def describe_instance_information(data):
    wanted = data.get("Filters") or []
    legacy = data.get("InstanceInformationFilterList") or []
    if wanted and legacy:
        raise Refused(
            "ValidationException", "Pass either Filters or InstanceInformationFilterList, not both."
        )
    wanted += [{"Key": one.get("key"), "Values": one.get("valueSet")} for one in legacy]
    known, found = instances_with_profile(get_account_id(), get_region()), []
    for node, instance in ec2._instances.items():
        status = ping_instance(instance, node in known)
        if status in ("Online", "ConnectionLost") and all(
            matches_node_filter(instance, status, one) for one in wanted
        ):
            found.append((instance, status))
    return page(
        "InstanceInformationList",
        found,
        lambda one: show_node(*one),
        data,
        most=50,
        least=5,
        usual=10,
    )


def matches_node_filter(instance, status, wanted):
    name, values = wanted.get("Key") or "", wanted.get("Values") or []
    if not 1 <= len(values) <= 100:
        raise invalid("filters", values, "have length between 1 and 100")
    if name.startswith("tag:") or name == "tag-key":
        return has_tag(instance["InstanceId"], name, values)
    if name == "PingStatus" and not set(values) <= {"Online", "ConnectionLost", "Inactive"}:
        raise Refused(
            "InvalidInstanceInformationFilterValue", f"{values} are not values of PingStatus."
        )
    if name == "InstanceIds":
        for value in values:
            check("filters", value, INSTANCE_ID)
    node = show_node(instance, status)
    fields = {
        "InstanceIds": "InstanceId",
        "PingStatus": "PingStatus",
        "PlatformTypes": "PlatformType",
        "AgentVersion": "AgentVersion",
        "ResourceType": "ResourceType",
        "SourceIds": "SourceId",
        "SourceTypes": "SourceType",
    }
    if name in ("ActivationIds", "IamRole", "AssociationStatus"):
        return False  # fields of managed nodes that are not instances, and of associations
    if name not in fields:
        raise Refused("InvalidFilterKey", f"The filter {name} is not valid.")
    return node[fields[name]] in values


OPERATIONS = {
    "SendCommand": send_command,
    "CancelCommand": cancel_command,
    "ListCommands": list_commands,
    "ListCommandInvocations": list_command_invocations,
    "GetCommandInvocation": get_command_invocation,
    "DescribeInstanceInformation": describe_instance_information,
}

handle_request = service.handle_request
reset_service = service.reset


async def handle_request_of_run_command(method, path, headers, body, query_params):
    operation = headers.get("x-amz-target", "").rpartition(".")[2]
    calls[operation] += 1
    if operation not in OPERATIONS:
        return await handle_request(method, path, headers, body, query_params)
    try:
        return json_response(OPERATIONS[operation](json.loads(body or "{}")))
    except Refused as refused:
        return error_response_json(refused.code, str(refused), 400, message_key="Message")


handle_pre_body_request = app._handle_pre_body_request


async def handle_own_request(method, path, *arguments):
    if (method, path) == ("GET", "/_stepward/ssm/calls"):
        return json_response(dict(calls))
    return await handle_pre_body_request(method, path, *arguments)


def reset():
    command_node.reset()
    commands.clear()
    kept.clear()
    calls.clear()
    reset_service()


def install():
    service.handle_request = handle_request_of_run_command
    service.reset = reset
    app._handle_pre_body_request = handle_own_request
