"""Runs a state machine on a server."""

import json
import time
import uuid

TRUST = {
    "Effect": "Allow",
    "Principal": {"Service": "states.amazonaws.com"},
    "Action": "sts:AssumeRole",
}


def create_role(cloud, trust, *statements):
    """Creates a role with these permissions, and returns its ARN."""
    iam, name = cloud.client("iam"), f"role-{uuid.uuid4().hex[:8]}"
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))["Role"]["Arn"]
    if statements:
        iam.put_role_policy(
            RoleName=name, PolicyName="permissions", PolicyDocument=policy(*statements)
        )
    return role


def policy(*statements):
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def start(cloud, definition, state_input=None):
    client, name = cloud.client("stepfunctions"), f"machine-{uuid.uuid4().hex[:8]}"
    machine = client.create_state_machine(
        name=name, definition=json.dumps(definition), roleArn=create_role(cloud, TRUST)
    )["stateMachineArn"]
    return client.start_execution(stateMachineArn=machine, input=json.dumps(state_input or {}))[
        "executionArn"
    ]


def run(cloud, definition, state_input=None):
    """Runs a state machine, and returns the ended execution."""
    return ended(cloud, start(cloud, definition, state_input))


def ended(cloud, execution):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        described = cloud.client("stepfunctions").describe_execution(executionArn=execution)
        if described["status"] != "RUNNING":
            return described
        time.sleep(0.02)
    raise TimeoutError(execution)
