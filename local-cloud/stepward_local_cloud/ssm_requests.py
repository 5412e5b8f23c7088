"""Requests of SSM's Run Command: validation of parameters, and the target instances of a command.

https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html
"""

import json
import re
from datetime import datetime

from ministack.core.responses import get_account_id, get_region
from ministack.services import ec2
from ministack.services import ssm as service

from .run_command import instances_with_profile, ping, ping_instance

INSTANCE_ID = r"(^i-(\w{8}|\w{17})$)|(^mi-\w{17}$)"
EXECUTION_TIMEOUT = r"[1-9][0-9]{0,4}|1[0-6][0-9]{4}|17[01][0-9]{3}|172[0-7][0-9]{2}|172800"
FROM_PARAMETER_STORE = re.compile(r"\{\{\s*ssm:([\w./-]+(?::[\w.-]+)?)\s*\}\}")
TIME_FILTERS = ("InvokedAfter", "InvokedBefore")


class Refused(Exception):
    """An error response of SSM."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def check(name, value, pattern, required=False):
    if value is None and not required:
        return
    if value is None:
        raise invalid(name, "null", "not be null")
    if not re.fullmatch(pattern, str(value), re.DOTALL):
        raise invalid(name, value, f"satisfy regular expression pattern: {pattern}")


def invalid(name, value, rule):
    text = (
        f"1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint:"
        f" Member must {rule}"
    )
    return Refused("ValidationException", text)


def check_fields(data):
    """Checks the fields of SendCommand, except the document's parameters."""
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
        raise Refused(
            "DuplicateInstanceId", "You can't specify an instance ID in more than one place."
        )


def expand_parameters(parameters):
    """Checks the parameters of the document, and inserts values of Parameter Store."""
    for name, values in parameters.items():
        if name not in ("commands", "workingDirectory", "executionTimeout"):
            raise Refused(
                "InvalidParameters", f'Parameter "{name}" is not defined in the document.'
            )
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise Refused("InvalidParameters", f'Parameter "{name}" must be a list of strings.')
        if name != "commands" and len(values) != 1:
            raise Refused("InvalidParameters", f'Parameter "{name}" takes one value.')
    if not parameters.get("commands"):
        raise Refused("InvalidParameters", 'Parameter "commands" requires at least one item.')
    if len(json.dumps(parameters).encode()) > 64 << 10:
        raise Refused("MaxDocumentSizeExceeded", "The size limit of a document is 64 KB.")
    expanded = {
        name: [FROM_PARAMETER_STORE.sub(stored_parameter, value) for value in values]
        for name, values in parameters.items()
    }
    if not re.fullmatch(EXECUTION_TIMEOUT, expanded.get("executionTimeout", ["3600"])[0]):
        raise Refused(
            "InvalidParameters", f'Parameter "executionTimeout" must match: {EXECUTION_TIMEOUT}'
        )
    if len(expanded.get("workingDirectory", [""])[0]) > 4096:
        raise Refused(
            "InvalidParameters", 'Parameter "workingDirectory" takes at most 4096 characters.'
        )
    return expanded


def stored_parameter(found):
    status, _, body = service._get_parameter({"Name": found[1]})
    if status != 200:
        raise Refused(
            "InvalidParameters", f"Parameter {found[1]} was not found in Parameter Store."
        )
    parameter = json.loads(body)["Parameter"]
    if parameter["Type"] == "SecureString":
        raise Refused(
            "InvalidParameters",
            f"Parameter {found[1]} is a SecureString, which the local cloud does not support.",
        )
    return parameter["Value"]


def target_instances(data):
    """Returns the IDs of the instances that SendCommand names, and of those with all its tags."""
    named = list(data.get("InstanceIds") or [])
    tagged = []
    for target in data.get("Targets") or []:
        name, values = target.get("Key", ""), target.get("Values") or []
        if name.lower() == "instanceids":
            named += values
        elif name.startswith("tag:") or name == "tag-key":
            tagged.append((name, values))
        else:
            raise Refused(
                "InvalidParameters", f'The local cloud does not support the target key "{name}".'
            )
    scope = (get_account_id(), get_region())
    unknown = [node for node in named if ping(*scope, node) is None]
    if unknown:
        raise Refused(
            "InvalidInstanceId",
            f"Instances [[{', '.join(unknown)}]] not in a valid state for account {scope[0]}",
        )
    if tagged:
        known = instances_with_profile(*scope)
        for node, instance in ec2._instances.items():
            if ping_instance(instance, node in known) and all(
                has_tag(node, *wanted) for wanted in tagged
            ):
                named.append(node)
    return list(dict.fromkeys(named))


def has_tag(node, name, values):
    tags = ec2._tags.get(node) or []
    if name == "tag-key":
        return any(tag["Key"] in values for tag in tags)
    return any(tag["Key"] == name[4:] and tag["Value"] in values for tag in tags)


def list_filters(data, *known):
    filters = data.get("Filters") or []
    if len(filters) > 5:
        raise invalid("filters", filters, "have length less than or equal to 5")
    for one in filters:
        if one.get("key") not in known:
            raise Refused("InvalidFilterKey", f"The filter {one.get('key')} is not valid.")
        if one["key"] in TIME_FILTERS:
            try:
                timestamp(one["value"])
            except ValueError:
                raise invalid(
                    "filters", one["value"], "be a timestamp such as 2024-07-07T00:00:00Z"
                ) from None
    return filters


def timestamp(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
