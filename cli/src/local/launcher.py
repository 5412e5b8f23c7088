"""Runs MiniStack for `stepward`: usage `python launcher.py LOCK_FILE attached|detached`.

What MiniStack alone does not do:
- LOCK_FILE stays locked while it runs, so a process ID read from a file is known to be still ours.
- "attached": when standard input ends (whoever started it is gone, however it went), the whole process group ends with
  it: MiniStack and the Lambda processes that it started.
- Step Functions: an execution's history says which event came before which, and what happens inside a Map, as that of
  AWS does; distributed Maps in JSONata, with results in a bucket, and stopped with their execution: `maps.py`.
- Logs Insights: saved queries, the list of queries, and comments in a query are our own addition, written from
  https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_Operations.html
- EC2: an instance starts from an image that was registered from a snapshot, as from any invented image ID;
  RunInstances called again with the same client token answers the same instances; DescribeInstances answers pages.
- ECS Exec: a session's stream is where the task's tag `stepward:stream` says, with the command behind it, because there
  is no agent here; without the tag it is AWS's own host, as in MiniStack.
- S3: an object made of parts whose checksums are CRC-64/NVME has the checksum of all of it, which is refused otherwise.
- SSM: SendCommand really runs the commands, on this machine, with a directory of its own for every instance: `ssm.py`.
  GET /_stepward/ssm/calls answers how often each operation of SSM was called.
- IAM: a request to make a function, to log the traffic of a resource, to accept or delete a peering connection, or to
  run a command is checked against the ARN of that, as on AWS, where MiniStack asks for "*", which no narrowed
  permission allows. A command is checked against its document and each of its instances.
All but the first two lean on names that are private to MiniStack 1.5.33; with another version it fails at start, not
silently. Beyond those resources, what MiniStack decides by IAM is left as it is: tests of the boundary rest on it.
"""

import base64
import contextvars
import fcntl
import json
import os
import re
import shutil
import signal
import sys
import threading
import time

lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)


def end_with_starter():
    while os.read(0, 4096):
        pass
    # Unpacked functions, hundreds of megabytes.
    shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)


if sys.argv[2] == "attached":
    threading.Thread(target=end_with_starter, daemon=True).start()

del sys.argv[1:]

from ministack import app  # noqa: E402
from ministack.core import iam_actions, iam_evaluator  # noqa: E402
from ministack.core.responses import AccountRegionScopedDict, error_response_json, json_response, new_uuid  # noqa: E402
from ministack.services import cloudwatch_logs as logs  # noqa: E402
from ministack.services import ec2, ecs, s3  # noqa: E402

import maps  # noqa: E402, F401
import run_command  # noqa: E402
import ssm  # noqa: E402

run_command.lock_file = lock


# --- Logs Insights ---

definitions = AccountRegionScopedDict()
queries = logs._queries

handle_logs_request = logs.handle_request
start_query = logs._start_query
reset_logs = logs.reset


def put_query_definition(data):
    name, text = data.get("name"), data.get("queryString")
    if not name or not text:
        return error_response_json("InvalidParameterException", "name and queryString are required.", 400)
    key = data.get("queryDefinitionId")
    if key and key not in definitions:
        return query_definition_not_found(key)
    key = key or new_uuid()
    definitions[key] = {
        "queryDefinitionId": key,
        "queryLanguage": data.get("queryLanguage", "CWLI"),
        "name": name,
        "queryString": text,
        "logGroupNames": data.get("logGroupNames", []),
        "lastModified": int(time.time() * 1000),
    }
    return json_response({"queryDefinitionId": key})


def describe_query_definitions(data):
    prefix = data.get("queryDefinitionNamePrefix", "")
    found = [definition for definition in definitions.values() if definition["name"].startswith(prefix)]
    return page("queryDefinitions", sorted(found, key=lambda definition: definition["name"]), data)


def delete_query_definition(data):
    if definitions.pop(data.get("queryDefinitionId"), None) is None:
        return query_definition_not_found(data.get("queryDefinitionId"))
    return json_response({"success": True})


def query_definition_not_found(key):
    return error_response_json("ResourceNotFoundException", f"The query definition does not exist: {key}", 400)


def describe_queries(data):
    filters = ["status", "logGroupName", "queryLanguage"]
    shown = ["queryId", "queryString", "createTime", *filters]
    found = [
        {field: query[field] for field in shown}
        for query in queries.values()
        if all(data.get(field) in (None, query[field]) for field in filters)
    ]
    return page("queries", found, data)


def page(name, items, data):
    start = int(data.get("nextToken", 0))
    end = start + int(data.get("maxResults", 1000))
    return json_response({name: items[start:end], **({"nextToken": str(end)} if end < len(items) else {})})


def start_dated_query(data):
    # MiniStack knows no comments, no languages and no time of creation.
    text = data.get("queryString", "")
    status, headers, body = start_query({**data, "queryString": re.sub(r"(?m)^\s*#.*\n?", "", text)})
    if status == 200:
        query = queries[json.loads(body)["queryId"]]
        language = data.get("queryLanguage", "CWLI")
        query.update(queryString=text, queryLanguage=language, createTime=int(time.time() * 1000))
    return status, headers, body


async def handle_more_logs_requests(method, path, headers, body, query_params):
    added = {
        "PutQueryDefinition": put_query_definition,
        "DescribeQueryDefinitions": describe_query_definitions,
        "DeleteQueryDefinition": delete_query_definition,
        "DescribeQueries": describe_queries,
    }.get(headers.get("x-amz-target", "").rpartition(".")[2])
    if added:
        return added(json.loads(body or "{}"))
    return await handle_logs_request(method, path, headers, body, query_params)


def reset_more_logs():
    definitions.clear()
    reset_logs()


logs.handle_request = handle_more_logs_requests
logs._start_query = start_dated_query
logs.reset = reset_more_logs


# --- EC2 ---

launches = AccountRegionScopedDict()
launching = threading.Lock()
parameter = ec2._p

registered_image = ec2._registered_image
run_instances = ec2._ACTION_MAP["RunInstances"]
describe_instances = ec2._ACTION_MAP["DescribeInstances"]
reset_ec2 = ec2.reset


def image_to_boot(image_id):
    # MiniStack boots an image with a location as a container; any that it does not find starts with nothing behind it.
    image = registered_image(image_id)
    return image if image and image["ImageLocation"] else None


def run_instances_once(parameters):
    token = parameter(parameters, "ClientToken")
    with launching:
        answer = launches.get(token) if token else None
        if answer is None:
            answer = run_instances(parameters)
            if token and answer[0] == 200:
                launches[token] = answer
    return answer


def describe_page_of_instances(parameters):
    # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html: 5 to 1,000 a page
    if ec2._parse_member_list(parameters, "InstanceId"):
        return describe_instances(parameters)
    ec2._cleanup_terminated()
    filters = ec2._parse_filters(parameters)
    found = [instance for instance in ec2._instances.values() if ec2._matches_filters(instance, filters)]
    size = min(max(int(parameter(parameters, "MaxResults") or 1000), 5), 1000)
    start = int(base64.b64decode(parameter(parameters, "NextToken") or "MA=="))
    page = found[start : start + size]
    if not page:
        return ec2._xml(200, "DescribeInstancesResponse", "<reservationSet/>")
    asked = {f"InstanceId.{number}": [instance["InstanceId"]] for number, instance in enumerate(page, 1)}
    status, headers, body = describe_instances(asked)
    if status == 200 and start + size < len(found):
        token = base64.b64encode(str(start + size).encode())
        body = body.replace(b"</reservationSet>", b"</reservationSet><nextToken>" + token + b"</nextToken>")
    return status, headers, body


def reset_launches():
    launches.clear()
    reset_ec2()


ec2._registered_image = image_to_boot
ec2._ACTION_MAP["RunInstances"] = run_instances_once
ec2._ACTION_MAP["DescribeInstances"] = describe_page_of_instances
ec2.reset = reset_launches


# --- ECS Exec ---

execute_command = ecs._ACTION_MAP["ExecuteCommand"]


def execute_command_where_the_task_says(data):
    status, headers, body = execute_command(data)
    if status == 200:
        answer = json.loads(body)
        tags = {tag["key"]: tag["value"] for tag in ecs._tasks[answer["taskArn"]].get("tags") or []}
        session = answer["session"]
        # As on AWS, where the ID begins so.
        session["sessionId"] = "ecs-execute-command-" + session["sessionId"]
        if "stepward:stream" in tags:
            command = data["command"].encode().hex()
            session["streamUrl"] = f"{tags['stepward:stream']}/{session['sessionId']}?command={command}"
        body = json.dumps(answer).encode()
    return status, headers, body


ecs._ACTION_MAP["ExecuteCommand"] = execute_command_where_the_task_says


# --- S3 ---

# For this algorithm S3 has no checksum of checksums, only that of the whole object:
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
WHOLE = "CRC64NVME"
parts_to_join = contextvars.ContextVar("parts_to_join", default=())

composite_checksum = s3._composite_checksum
complete_multipart_upload = s3._complete_multipart_upload


def checksum_of_object(algorithm, part_checksums):
    if algorithm != WHOLE:
        return composite_checksum(algorithm, part_checksums)
    return s3._compute_s3_checksum(algorithm, b"".join(parts_to_join.get()))


def complete_with_checksum_of_object(bucket, key, body, query, headers=None):
    upload = s3._multipart_uploads.get(s3._qp(query, "uploadId")) or {"parts": {}}
    token = parts_to_join.set([part["body"] for _, part in sorted(upload["parts"].items())])
    try:
        answer = complete_multipart_upload(bucket, key, body, query, headers)
    finally:
        parts_to_join.reset(token)
    made = (s3._buckets.get(bucket) or {"objects": {}})["objects"].get(key, {})
    if WHOLE in made.get("checksums", {}):
        made["checksum_type"] = "FULL_OBJECT"
    return answer


s3._composite_checksum = checksum_of_object
s3._complete_multipart_upload = complete_with_checksum_of_object


# IAM: https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
resource_of = iam_actions.extract_resource_arn
query_parameter = iam_actions._query_param
LOGGED = {"VPC": "vpc", "Subnet": "subnet", "NetworkInterface": "network-interface"}

enforce = iam_evaluator.enforce
access_denied_response = iam_actions.access_denied_response
refused = contextvars.ContextVar("refused", default=None)


class Several(str):
    """The ARN that a request is checked against first, with all that it is checked against."""

    checks = ()


def enforce_on_each(access_key, action, service, region, resource_arn="*", **more):
    refused.set(None)
    for checked, arn in getattr(resource_arn, "checks", ()) or [(action, resource_arn)]:
        denied = enforce(access_key, checked, service, region, resource_arn=arn, **more)
        if denied:
            refused.set((checked, arn))
            return denied
    return None


def deny_what_was_refused(service, action, *about, resource_arn="*", **more):
    if isinstance(resource_arn, Several):
        action, resource_arn = refused.get()
    return access_denied_response(service, action, *about, resource_arn=resource_arn, **more)


def resource_as_on_aws(service, method, path, headers, body, params, region, account):
    found = resource_of(service, method, path, headers, body, params, region, account)
    if found != "*":
        return found
    if service == "ssm" and headers.get("x-amz-target", "").endswith(".SendCommand"):
        found = Several("command")
        found.checks = ssm.checked_resources(body, region, account)
        return found
    name = None
    if service == "lambda" and method == "POST" and path.rstrip("/").endswith("/functions"):
        name = "function:" + json.loads(body or b"{}").get("FunctionName", "*")
    elif service == "ec2" and query_parameter(params, "VpcPeeringConnectionId"):
        name = "vpc-peering-connection/" + query_parameter(params, "VpcPeeringConnectionId")
    elif service == "ec2" and query_parameter(params, "Action") == "CreateFlowLogs":
        kind = LOGGED.get(query_parameter(params, "ResourceType"), "*")
        name = f"{kind}/{query_parameter(params, 'ResourceId.1')}"
    return f"arn:aws:{service}:{region}:{account}:{name}" if name else found


iam_actions.extract_resource_arn = resource_as_on_aws
iam_actions.access_denied_response = deny_what_was_refused
iam_evaluator.enforce = enforce_on_each


# --- What the local cloud says of itself ---

handle_pre_body_request = app._handle_pre_body_request


async def handle_own_request(method, path, *about):
    if (method, path) == ("GET", "/_stepward/ssm/calls"):
        return json_response(dict(ssm.calls))
    return await handle_pre_body_request(method, path, *about)


app._handle_pre_body_request = handle_own_request

app.main()
