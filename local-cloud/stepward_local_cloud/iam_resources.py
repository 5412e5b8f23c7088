"""IAM: checks some requests against the same resource as AWS. MiniStack checks them against "*".

A permission on a resource does not allow "*". These requests create a function, log the traffic of
a resource, accept or delete a VPC peering connection, or run a command. A command is checked
against its document, each of its instances, and each parameter that it reads from Parameter Store.
https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html
All other IAM decisions of MiniStack stay unchanged, because tests of the boundary between customers
depend on them.
"""

import contextvars
import json

from ministack.core import iam_actions, iam_evaluator

from .ssm_requests import FROM_PARAMETER_STORE

FLOW_LOG_RESOURCES = {"VPC": "vpc", "Subnet": "subnet", "NetworkInterface": "network-interface"}
AWS_DOCUMENTS = ("AWS-", "AWSSupport-", "Amazon")

extract_resource_arn = iam_actions.extract_resource_arn
access_denied_response = iam_actions.access_denied_response
enforce = iam_evaluator.enforce
query_parameter = iam_actions._query_param

# Action and ARN of the check that failed, for the error message.
denied_check = contextvars.ContextVar("denied_check", default=None)


class Checks(str):
    """The resource of a request that needs several checks: pairs of action and ARN."""

    pairs = ()


def enforce_each_check(access_key, action, service, region, resource_arn="*", **context):
    denied_check.set(None)
    for checked_action, arn in getattr(resource_arn, "pairs", ()) or [(action, resource_arn)]:
        denied = enforce(access_key, checked_action, service, region, resource_arn=arn, **context)
        if denied:
            denied_check.set((checked_action, arn))
            return denied
    return None


def denied_response_of_failed_check(service, action, *arguments, resource_arn="*", **context):
    if isinstance(resource_arn, Checks):
        action, resource_arn = denied_check.get()
    return access_denied_response(service, action, *arguments, resource_arn=resource_arn, **context)


def resource_on_aws(service, method, path, headers, body, params, region, account):
    found = extract_resource_arn(service, method, path, headers, body, params, region, account)
    if found != "*":
        return found
    if service == "ssm" and headers.get("x-amz-target", "").endswith(".SendCommand"):
        found = Checks("command")
        found.pairs = command_checks(json.loads(body or b"{}"), region, account)
        return found
    name = None
    if service == "lambda" and method == "POST" and path.rstrip("/").endswith("/functions"):
        name = "function:" + json.loads(body or b"{}").get("FunctionName", "*")
    elif service == "ec2" and query_parameter(params, "VpcPeeringConnectionId"):
        name = "vpc-peering-connection/" + query_parameter(params, "VpcPeeringConnectionId")
    elif service == "ec2" and query_parameter(params, "Action") == "CreateFlowLogs":
        kind = FLOW_LOG_RESOURCES.get(query_parameter(params, "ResourceType"), "*")
        name = f"{kind}/{query_parameter(params, 'ResourceId.1')}"
    return f"arn:aws:{service}:{region}:{account}:{name}" if name else found


def command_checks(request, region, account):
    """Returns the action and the ARN of each check of SendCommand.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssystemsmanager.html
    """
    document = request.get("DocumentName") or "*"
    owner = "" if document.startswith(AWS_DOCUMENTS) else account
    if not document.startswith("arn:"):
        document = f"arn:aws:ssm:{region}:{owner}:document/{document}"
    ids = list(request.get("InstanceIds") or [])
    for target in request.get("Targets") or []:
        ids += (
            target.get("Values") or [] if target.get("Key", "").lower() == "instanceids" else ["*"]
        )
    names = sorted(set(FROM_PARAMETER_STORE.findall(json.dumps(request.get("Parameters") or {}))))
    arns = [document, *(f"arn:aws:ec2:{region}:{account}:instance/{node}" for node in ids)]
    stored = [
        f"arn:aws:ssm:{region}:{account}:parameter/{name.partition(':')[0].lstrip('/')}"
        for name in names
    ]
    return [
        *(("ssm:SendCommand", arn) for arn in arns),
        *(("ssm:GetParameters", arn) for arn in stored),
    ]


def install():
    iam_actions.extract_resource_arn = resource_on_aws
    iam_actions.access_denied_response = denied_response_of_failed_check
    iam_evaluator.enforce = enforce_each_check
