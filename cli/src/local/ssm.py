"""Run Command of the local cloud: SendCommand really runs the commands, on this machine (`run_command.py`).

MiniStack runs commands in Docker containers, and answers Success for documents that it cannot run. This takes the
place of its six operations, written from AWS's API reference
(https://docs.aws.amazon.com/systems-manager/latest/APIReference/), from
https://docs.aws.amazon.com/systems-manager/latest/userguide/monitor-commands.html for statuses and timeouts, and from
SSM Agent (https://github.com/aws/amazon-ssm-agent) for exit codes, truncation, and where output goes. Statuses are
spelt as AWS sends them ("ExecutionTimedOut"), not as its guide prints them ("Execution Timed Out").

Which nodes there are:
- An instance that runs with an instance profile is Online. Without one it is unknown to SSM, as is a terminated one:
  a call that names it is refused whole, with InvalidInstanceId.
- Stopped, it is not listed (API_DescribeInstanceInformation), but still known (API_SendCommand: "Valid states are:
  Running, Pending, Stopped, and Stopping"): its invocation is Delayed, runs when the node starts in time, else is
  DeliveryTimedOut.
- One that lost its profile while it ran has ConnectionLost; its invocation is Undeliverable.

What differs from AWS: output is kept up to 64 MiB a stream; it arrives in logs and buckets when the command ends, and
by no role of the instance; exit code 194 runs the script again without a reboot; there is no Windows, and nobody is
notified.
"""

import base64
import collections
import json
import re
import threading
import time
from datetime import datetime, timezone

from ministack.core.responses import (
    AccountRegionScopedDict,
    error_response_json,
    get_account_id,
    get_region,
    json_response,
)
from ministack.services import ec2, s3
from ministack.services import ssm as service

from run_command import (
    DOCUMENTS,
    Command,
    cancel,
    changing,
    forget_all,
    go_on,
    had_profiles,
    key,
    log_group,
    ping,
    ping_instance,
    start_working,
    unfinished,
)

KEPT = 100_000  # invocations; the oldest commands that are over are forgotten beyond
SHOWN_LATE = 0.2  # seconds; a new invocation is not found at once (API_GetCommandInvocation: "eventual consistency")
OUTPUT, STDOUT, STDERR = 2_500, 24_000, 8_000  # characters that are shown

INSTANCE_ID = r"(^i-(\w{8}|\w{17})$)|(^mi-\w{17}$)"
EXECUTION_TIMEOUT = r"[1-9][0-9]{0,4}|1[0-6][0-9]{4}|17[01][0-9]{3}|172[0-7][0-9]{2}|172800"
FROM_PARAMETER_STORE = re.compile(r"\{\{\s*ssm:([\w./-]+(?::[\w.-]+)?)\s*\}\}")

commands = AccountRegionScopedDict()
kept = collections.deque()  # all commands, oldest first
calls = collections.Counter()


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


# --- SendCommand and CancelCommand ---


def send_command(data):
    check_lengths(data)
    document = data["DocumentName"].rpartition("/")[2]
    if document not in DOCUMENTS:
        raise Refused("InvalidDocument", f"Document with name {document} does not exist.")
    if data.get("DocumentVersion", "$DEFAULT") not in ("$DEFAULT", "$LATEST", "1"):
        raise Refused("InvalidDocumentVersion", f"Document version {data['DocumentVersion']} does not exist.")
    if data.get("NotificationConfig") or data.get("AlarmConfiguration"):
        raise Refused("InvalidNotificationConfig", "The local cloud neither notifies nor watches alarms.")
    bucket = data.get("OutputS3BucketName")
    if bucket and s3._ensure_bucket(bucket) is None:
        raise Refused("InvalidOutputFolder", f"The S3 bucket {bucket} does not exist.")
    parameters = check_parameters(data.get("Parameters") or {})
    command = Command(data, document, parameters, targets_of(data))
    with changing:
        commands[command.id] = command
        kept.append(command)
        unfinished[command.id] = command
        forget_old()
        answer = show_command(command)
    start_working()
    # Begun when the answer is out: its status is Pending.
    if command.left:
        threading.Timer(0.01, go_on, [command]).start()
    else:
        unfinished.pop(command.id)
    return {"Command": answer}


def check_lengths(data):
    ids = data.get("InstanceIds") or []
    check("documentName", data.get("DocumentName"), r"[a-zA-Z0-9_\-.:/]{3,128}", required=True)
    check("documentVersion", data.get("DocumentVersion"), r"\$LATEST|\$DEFAULT|[1-9][0-9]*")
    check("maxConcurrency", data.get("MaxConcurrency"), r"[1-9][0-9]{0,6}|[1-9][0-9]?%|100%")
    check("maxErrors", data.get("MaxErrors"), r"0|[1-9][0-9]{0,6}|[0-9]%|[1-9][0-9]%|100%")
    check("outputS3BucketName", data.get("OutputS3BucketName"), r".{3,63}")
    limits = {"comment": 100, "outputS3KeyPrefix": 500, "documentHash": 256}
    for name, most in limits.items():
        value = data.get(name[0].upper() + name[1:]) or ""
        if len(value) > most:
            raise invalid(name, value, f"have length less than or equal to {most}")
    for name, values, most in (("instanceIds", ids, 50), ("targets", data.get("Targets") or [], 5)):
        if len(values) > most:
            raise invalid(name, values, f"have length less than or equal to {most}")
    if not ids and not data.get("Targets"):
        raise Refused("ValidationException", "Either InstanceIds or Targets must be specified.")
    seconds = data.get("TimeoutSeconds", 3600)
    if not 30 <= seconds <= 2_592_000:
        bound = "greater than or equal to 30" if seconds < 30 else "less than or equal to 2592000"
        raise invalid("timeoutSeconds", seconds, f"have value {bound}")
    group = (data.get("CloudWatchOutputConfig") or {}).get("CloudWatchLogGroupName")
    check("cloudWatchOutputConfig.cloudWatchLogGroupName", group, r"[.\-_/#A-Za-z0-9]{1,512}")
    for node in ids:
        check("instanceIds", node, INSTANCE_ID)
    if len(set(ids)) < len(ids):
        raise Refused("DuplicateInstanceId", "You can't specify an instance ID in more than one place.")


def check_parameters(given):
    """The parameters of AWS-RunShellScript and AWS-RunPowerShellScript, with values from Parameter Store in place."""
    for name, values in given.items():
        if name not in ("commands", "workingDirectory", "executionTimeout"):
            raise Refused("InvalidParameters", f'Parameter "{name}" is not defined in the document.')
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise Refused("InvalidParameters", f'Parameter "{name}" must be a list of strings.')
        if name != "commands" and len(values) != 1:
            raise Refused("InvalidParameters", f'Parameter "{name}" takes one value.')
    if not given.get("commands"):
        raise Refused("InvalidParameters", 'Parameter "commands" requires at least one item.')
    if len(json.dumps(given).encode()) > 64 << 10:
        raise Refused("MaxDocumentSizeExceeded", "The size limit of a document is 64 KB.")
    filled = {
        name: [FROM_PARAMETER_STORE.sub(stored_parameter, value) for value in values] for name, values in given.items()
    }
    if not re.fullmatch(EXECUTION_TIMEOUT, filled.get("executionTimeout", ["3600"])[0]):
        raise Refused("InvalidParameters", f'Parameter "executionTimeout" must match: {EXECUTION_TIMEOUT}')
    if len(filled.get("workingDirectory", [""])[0]) > 4096:
        raise Refused("InvalidParameters", 'Parameter "workingDirectory" takes at most 4096 characters.')
    return filled


def stored_parameter(found):
    status, _, body = service._get_parameter({"Name": found[1]})
    if status != 200:
        raise Refused("InvalidParameters", f"Parameter {found[1]} was not found in Parameter Store.")
    parameter = json.loads(body)["Parameter"]
    if parameter["Type"] == "SecureString":
        raise Refused("InvalidParameters", f"Parameter {found[1]} is a SecureString, which is not supported here.")
    return parameter["Value"]


def targets_of(data):
    named = list(data.get("InstanceIds") or [])
    tagged = []
    for target in data.get("Targets") or []:
        name, values = target.get("Key", ""), target.get("Values") or []
        if name.lower() == "instanceids":
            named += values
        elif name.startswith("tag:") or name == "tag-key":
            tagged.append((name, values))
        else:
            raise Refused("InvalidParameters", f"The local cloud knows no target {name}.")
    scope = (get_account_id(), get_region())
    unknown = [node for node in named if ping(*scope, node) is None]
    if unknown:
        raise Refused(
            "InvalidInstanceId", f"Instances [[{', '.join(unknown)}]] not in a valid state for account {scope[0]}"
        )
    if tagged:
        known = had_profiles(*scope)
        for node, instance in ec2._instances.items():
            if ping_instance(instance, node in known) and all(has_tag(node, *wanted) for wanted in tagged):
                named.append(node)
    return list(dict.fromkeys(named))


def has_tag(node, name, values):
    tags = ec2._tags.get(node) or []
    if name == "tag-key":
        return any(tag["Key"] in values for tag in tags)
    return any(tag["Key"] == name[4:] and tag["Value"] in values for tag in tags)


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
        # The last first: none of them begins because another made room.
        for node in reversed(ids or list(command.invocations)):
            cancel(command.invocations[node])
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


# --- What is listed ---


FILTERS = ("InvokedAfter", "InvokedBefore", "Status", "DocumentName")


def list_commands(data):
    check("commandId", data.get("CommandId"), r".{36}")
    wanted = filters_of(data, *FILTERS, "ExecutionStage")
    found = [
        command
        for command in reversed(commands.values())
        if data.get("CommandId") in (None, command.id)
        and (not data.get("InstanceId") or data["InstanceId"] in command.invocations)
        and all(passes(command, command.status(), one) for one in wanted)
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
    wanted = filters_of(data, *FILTERS)
    found = [
        invocation
        for command in listed
        if command.asked + SHOWN_LATE <= time.time()
        for invocation in command.invocations.values()
        if data.get("InstanceId") in (None, invocation.node)
        and all(passes(command, (invocation.status, invocation.details), one) for one in wanted)
    ]
    details = bool(data.get("Details"))
    return page("CommandInvocations", found, lambda invocation: show_invocation(invocation, details), data, most=50)


def filters_of(data, *known):
    wanted = data.get("Filters") or []
    if len(wanted) > 5:
        raise invalid("filters", wanted, "have length less than or equal to 5")
    for one in wanted:
        if one.get("key") not in known:
            raise Refused("InvalidFilterKey", f"The filter {one.get('key')} is not valid.")
        if one["key"].startswith("Invoked"):
            try:
                datetime.fromisoformat(one["value"].replace("Z", "+00:00"))
            except ValueError:
                raise invalid("filters", one["value"], "be a timestamp such as 2024-07-07T00:00:00Z") from None
    return wanted


def passes(command, statuses, wanted):
    name, value = wanted["key"], wanted["value"]
    if name in ("InvokedAfter", "InvokedBefore"):
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
        return command.asked >= moment if name == "InvokedAfter" else command.asked < moment
    if name == "Status":
        return value in statuses
    if name == "DocumentName":
        return value == command.document
    return value == ("Executing" if command.left else "Complete")


def page(name, found, show, data, most, least=1, usual=None):
    size = data.get("MaxResults") or usual or most
    if not least <= size <= most:
        bound = f"less than or equal to {most}" if size > most else f"greater than or equal to {least}"
        raise invalid("maxResults", size, f"have value {bound}")
    try:
        start = int(base64.b64decode(data["NextToken"], validate=True)) if data.get("NextToken") else 0
    except ValueError:
        raise Refused("InvalidNextToken", "The specified token isn't valid.") from None
    answer = {name: [show(one) for one in found[start : start + size]]}
    if start + size < len(found):
        answer["NextToken"] = base64.b64encode(str(start + size).encode()).decode()
    return answer


def show_command(command):
    status, details = command.status()
    request = command.request
    config = request.get("CloudWatchOutputConfig") or {}
    return {
        "CommandId": command.id,
        "DocumentName": command.document,
        "DocumentVersion": request.get("DocumentVersion", "$DEFAULT"),
        "Comment": request.get("Comment") or "",
        "ExpiresAfter": command.expires,
        "Parameters": request.get("Parameters") or {},
        "InstanceIds": request.get("InstanceIds") or [],
        "Targets": request.get("Targets") or [],
        "RequestedDateTime": command.asked,
        "Status": status,
        "StatusDetails": details,
        "OutputS3Region": command.scope[1],
        "OutputS3BucketName": request.get("OutputS3BucketName") or "",
        "OutputS3KeyPrefix": request.get("OutputS3KeyPrefix") or "",
        "MaxConcurrency": request.get("MaxConcurrency", "50"),
        "MaxErrors": request.get("MaxErrors", "0"),
        "TargetCount": len(command.invocations),
        "CompletedCount": len(command.invocations) - command.left,
        "ErrorCount": command.errors(),
        "DeliveryTimedOutCount": command.ends["DeliveryTimedOut"],
        "ServiceRole": request.get("ServiceRoleArn") or "",
        "CloudWatchOutputConfig": {
            "CloudWatchLogGroupName": log_group(command) if config.get("CloudWatchOutputEnabled") else "",
            "CloudWatchOutputEnabled": bool(config.get("CloudWatchOutputEnabled")),
        },
        "TimeoutSeconds": request.get("TimeoutSeconds", 3600),
    }


def show_invocation(invocation, details):
    command = invocation.command
    whole = show_command(command)
    same = ("CommandId", "Comment", "DocumentName", "DocumentVersion", "RequestedDateTime", "ServiceRole")
    instance = ec2._instances.get(invocation.node) or {}
    return {
        **{name: whole[name] for name in (*same, "CloudWatchOutputConfig")},
        "InstanceId": invocation.node,
        "InstanceName": instance.get("PrivateDnsName", ""),
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "TraceOutput": "",
        "StandardOutputUrl": url(invocation, "stdout"),
        "StandardErrorUrl": url(invocation, "stderr"),
        "CommandPlugins": [show_plugin(invocation)] if details else [],
    }


def show_plugin(invocation):
    request = invocation.command.request
    answer = {
        "Name": invocation.command.plugin,
        # A plugin is not cancelled bit by bit, and knows no delay.
        "Status": "InProgress" if invocation.status == "Cancelling" else invocation.status,
        "StatusDetails": invocation.details,
        "ResponseCode": invocation.code,
        "Output": together(*texts(invocation)),
        "StandardOutputUrl": url(invocation, "stdout"),
        "StandardErrorUrl": url(invocation, "stderr"),
        "OutputS3Region": invocation.command.scope[1],
        "OutputS3BucketName": request.get("OutputS3BucketName") or "",
        "OutputS3KeyPrefix": request.get("OutputS3KeyPrefix") or "",
    }
    if invocation.started:
        answer["ResponseStartDateTime"] = invocation.started
    if invocation.started and invocation.ended:
        answer["ResponseFinishDateTime"] = invocation.ended
    return answer


def get_command_invocation(data):
    check("commandId", data.get("CommandId"), r".{36}", required=True)
    check("instanceId", data.get("InstanceId"), INSTANCE_ID, required=True)
    command = commands.get(data["CommandId"])
    invocation = command and command.invocations.get(data["InstanceId"])
    if invocation is None or command.asked + SHOWN_LATE > time.time():
        raise Refused("InvocationDoesNotExist", "")
    if data.get("PluginName") not in (None, "", command.plugin):
        raise Refused("InvalidPluginName", f"The command has no plugin {data['PluginName']}.")
    whole = show_command(command)
    output, errors = texts(invocation)
    ended = invocation.ended if invocation.started else None
    same = ("CommandId", "Comment", "DocumentName", "DocumentVersion", "CloudWatchOutputConfig")
    return {
        **{name: whole[name] for name in same},
        "InstanceId": invocation.node,
        "PluginName": command.plugin,
        "ResponseCode": invocation.code,
        "ExecutionStartDateTime": written_time(invocation.started),
        "ExecutionElapsedTime": elapsed(ended - invocation.started) if ended else "",
        "ExecutionEndDateTime": written_time(ended),
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "StandardOutputContent": output,
        "StandardOutputUrl": url(invocation, "stdout"),
        "StandardErrorContent": errors,
        "StandardErrorUrl": url(invocation, "stderr") if invocation.ended else "",
    }


def url(invocation, stream):
    bucket = invocation.command.request.get("OutputS3BucketName")
    region = invocation.command.scope[1]
    return f"https://s3.{region}.amazonaws.com/{bucket}/{key(invocation, stream)}" if bucket else ""


def written_time(moment):
    if moment is None:
        return ""
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def elapsed(seconds):
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return f"PT{f'{int(hours)}H' if hours else ''}{f'{int(minutes)}M' if minutes else ''}{rest:.3f}S"


def texts(invocation):
    """Standard output and error, as much as GetCommandInvocation shows."""
    if invocation.ended is None:
        return "", ""
    return cut(shown(invocation.file("stdout")), STDOUT), cut(shown(invocation.file("stderr")), STDERR)


def shown(file):
    try:
        return file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def cut(text, most):
    mark = "--output truncated--"
    return text if len(text) < most else text[: most - len(mark)] + mark


def together(output, errors):
    """Both streams in 2,500 characters: the shorter one whole, when it takes less than half."""
    title = "\n----------ERROR-------\n" if errors else ""
    room = OUTPUT - len(title)
    if len(output) + len(errors) < room:
        return output + title + errors
    long_output, long_errors = len(output) > room // 2, len(errors) > room // 2
    output_end = "\n---Output truncated---" if long_output else ""
    errors_end = "\n---Error truncated----" if long_errors or not long_output else ""
    room -= len(output_end) + len(errors_end)
    if long_output and long_errors:
        output, errors = output[: room // 2], errors[: room // 2]
    elif long_output:
        output = output[: room - len(errors)]
    else:
        errors = errors[: room - len(output)]
    return output + output_end + title + errors + errors_end


# --- DescribeInstanceInformation ---


def describe_instance_information(data):
    wanted = data.get("Filters") or []
    legacy = data.get("InstanceInformationFilterList") or []
    if wanted and legacy:
        raise Refused("ValidationException", "Filters and InstanceInformationFilterList exclude each other.")
    wanted += [{"Key": one.get("key"), "Values": one.get("valueSet")} for one in legacy]
    known, found = had_profiles(get_account_id(), get_region()), []
    for node, instance in ec2._instances.items():
        status = ping_instance(instance, node in known)
        if status in ("Online", "ConnectionLost") and all(node_passes(instance, status, one) for one in wanted):
            found.append((instance, status))
    return page("InstanceInformationList", found, lambda one: show_node(*one), data, most=50, least=5, usual=10)


def node_passes(instance, status, wanted):
    name, values = wanted.get("Key") or "", wanted.get("Values") or []
    if not 1 <= len(values) <= 100:
        raise invalid("filters", values, "have length between 1 and 100")
    if name.startswith("tag:") or name == "tag-key":
        return has_tag(instance["InstanceId"], name, values)
    if name == "PingStatus" and not set(values) <= {"Online", "ConnectionLost", "Inactive"}:
        raise Refused("InvalidInstanceInformationFilterValue", f"{values} are not values of PingStatus.")
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
        return False  # of nodes that are no instances, or have associations
    if name not in fields:
        raise Refused("InvalidFilterKey", f"The filter {name} is not valid.")
    return node[fields[name]] in values


def show_node(instance, status):
    return {
        "InstanceId": instance["InstanceId"],
        "PingStatus": status,
        "LastPingDateTime": time.time(),
        "AgentVersion": "3.3.2299.0",
        "IsLatestVersion": True,
        "PlatformType": "Linux",
        "PlatformName": "Amazon Linux",
        "PlatformVersion": "2023",
        "ResourceType": "EC2Instance",
        "IPAddress": instance.get("PrivateIpAddress", ""),
        "ComputerName": instance.get("PrivateDnsName", ""),
        "SourceId": instance["InstanceId"],
        "SourceType": "AWS::EC2::Instance",
    }


# --- Requests ---


def check(name, value, pattern, required=False):
    if value is None and not required:
        return
    if value is None:
        raise invalid(name, "null", "not be null")
    if not re.fullmatch(pattern, str(value), re.DOTALL):
        raise invalid(name, value, f"satisfy regular expression pattern: {pattern}")


def invalid(name, value, rule):
    text = f"1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: Member must {rule}"
    return Refused("ValidationException", text)


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


async def handle_more_requests(method, path, headers, body, query_params):
    operation = headers.get("x-amz-target", "").rpartition(".")[2]
    calls[operation] += 1
    if operation not in OPERATIONS:
        return await handle_request(method, path, headers, body, query_params)
    try:
        return json_response(OPERATIONS[operation](json.loads(body or "{}")))
    except Refused as refused:
        return error_response_json(refused.code, str(refused), 400, message_key="Message")


def checked_resources(body, region, account):
    """What SendCommand is checked against: the document, every node, and what it takes from Parameter Store.
    https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssystemsmanager.html
    """
    data = json.loads(body or b"{}")
    document = data.get("DocumentName") or "*"
    owner = "" if document.startswith(("AWS-", "AWSSupport-", "Amazon")) else account
    if not document.startswith("arn:"):
        document = f"arn:aws:ssm:{region}:{owner}:document/{document}"
    ids = list(data.get("InstanceIds") or [])
    for target in data.get("Targets") or []:
        ids += target.get("Values") or [] if target.get("Key", "").lower() == "instanceids" else ["*"]
    names = sorted(set(FROM_PARAMETER_STORE.findall(json.dumps(data.get("Parameters") or {}))))
    arns = [document, *(f"arn:aws:ec2:{region}:{account}:instance/{node}" for node in ids)]
    stored = [f"arn:aws:ssm:{region}:{account}:parameter/{name.partition(':')[0].lstrip('/')}" for name in names]
    return [*(("ssm:SendCommand", arn) for arn in arns), *(("ssm:GetParameters", arn) for arn in stored)]


def reset():
    forget_all()
    commands.clear()
    kept.clear()
    calls.clear()
    reset_service()


service.handle_request = handle_more_requests
service.reset = reset
