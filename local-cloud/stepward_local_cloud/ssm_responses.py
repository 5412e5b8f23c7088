"""Responses of SSM's Run Command: commands, invocations, their output, and pages of a list.

Output is truncated as by SSM Agent: https://github.com/aws/amazon-ssm-agent.
"""

import base64
import time
from datetime import datetime, timezone

from ministack.services import ec2

from .command_node import output_key, output_log_group
from .ssm_requests import Refused, invalid

# The maximum number of characters of output in a list of invocations, and of each stream of one
# invocation.
OUTPUT, STDOUT, STDERR = 2_500, 24_000, 8_000


def page(name, found, show, data, most, least=1, usual=None):
    size = data.get("MaxResults") or usual or most
    if not least <= size <= most:
        bound = (
            f"less than or equal to {most}" if size > most else f"greater than or equal to {least}"
        )
        raise invalid("maxResults", size, f"have value {bound}")
    try:
        start = (
            int(base64.b64decode(data["NextToken"], validate=True)) if data.get("NextToken") else 0
        )
    except ValueError:
        raise Refused("InvalidNextToken", "The specified token isn't valid.") from None
    response = {name: [show(one) for one in found[start : start + size]]}
    if start + size < len(found):
        response["NextToken"] = base64.b64encode(str(start + size).encode()).decode()
    return response


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
        "RequestedDateTime": command.requested,
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
            "CloudWatchLogGroupName": output_log_group(command)
            if config.get("CloudWatchOutputEnabled")
            else "",
            "CloudWatchOutputEnabled": bool(config.get("CloudWatchOutputEnabled")),
        },
        "TimeoutSeconds": request.get("TimeoutSeconds", 3600),
    }


def show_invocation(invocation, details):
    command = invocation.command
    shown = show_command(command)
    same = (
        "CommandId",
        "Comment",
        "DocumentName",
        "DocumentVersion",
        "RequestedDateTime",
        "ServiceRole",
    )
    instance = ec2._instances.get(invocation.node) or {}
    return {
        **{name: shown[name] for name in (*same, "CloudWatchOutputConfig")},
        "InstanceId": invocation.node,
        "InstanceName": instance.get("PrivateDnsName", ""),
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "TraceOutput": "",
        "StandardOutputUrl": output_url(invocation, "stdout"),
        "StandardErrorUrl": output_url(invocation, "stderr"),
        "CommandPlugins": [show_plugin(invocation)] if details else [],
    }


def show_plugin(invocation):
    request = invocation.command.request
    response = {
        "Name": invocation.command.plugin,
        # A plugin has neither the status Cancelling nor Delayed.
        "Status": "InProgress" if invocation.status == "Cancelling" else invocation.status,
        "StatusDetails": invocation.details,
        "ResponseCode": invocation.code,
        "Output": combined_output(*output_texts(invocation)),
        "StandardOutputUrl": output_url(invocation, "stdout"),
        "StandardErrorUrl": output_url(invocation, "stderr"),
        "OutputS3Region": invocation.command.scope[1],
        "OutputS3BucketName": request.get("OutputS3BucketName") or "",
        "OutputS3KeyPrefix": request.get("OutputS3KeyPrefix") or "",
    }
    if invocation.started:
        response["ResponseStartDateTime"] = invocation.started
    if invocation.started and invocation.ended:
        response["ResponseFinishDateTime"] = invocation.ended
    return response


def output_url(invocation, stream):
    bucket = invocation.command.request.get("OutputS3BucketName")
    region = invocation.command.scope[1]
    return (
        f"https://s3.{region}.amazonaws.com/{bucket}/{output_key(invocation, stream)}"
        if bucket
        else ""
    )


def iso_time(moment):
    if moment is None:
        return ""
    return (
        datetime.fromtimestamp(moment, timezone.utc)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def iso_duration(seconds):
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    return (
        f"PT{f'{int(hours)}H' if hours else ''}{f'{int(minutes)}M' if minutes else ''}{rest:.3f}S"
    )


def output_texts(invocation):
    """Returns standard output and standard error, as GetCommandInvocation does."""
    if invocation.ended is None:
        return "", ""
    streams = (("stdout", STDOUT), ("stderr", STDERR))
    return tuple(truncate(shown_text(invocation.file(name)), most) for name, most in streams)


def shown_text(file):
    try:
        return file.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def truncate(text, most):
    mark = "--output truncated--"
    return text if len(text) < most else text[: most - len(mark)] + mark


def combined_output(output, errors):
    """Returns both streams in at most 2,500 characters. A stream below half of that is complete."""
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
