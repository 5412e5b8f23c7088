"""The rule that calls the function `cancel`, as EventBridge evaluates its pattern."""

import json
from pathlib import Path

import pytest
import yaml

TEMPLATE = Path(__file__).parents[2] / "infra/template.yaml"
ARN = "arn:aws:states:eu-west-1:111111111111"


class TemplateLoader(yaml.SafeLoader):
    """Reads `!Sub` with values of an example deployment, and other functions as their argument."""


def construct(loader, suffix, node):
    if not isinstance(node, yaml.ScalarNode):
        return None
    text = loader.construct_scalar(node)
    for name, value in {
        "Partition": "aws",
        "Region": "eu-west-1",
        "AccountId": "111111111111",
        "StackName": "stepward",
    }.items():
        text = text.replace(f"${{AWS::{name}}}", value)
    return text


TemplateLoader.add_multi_constructor("!", construct)


def is_called(local_cloud, status, machine, execution):
    template = yaml.load(TEMPLATE.read_text(), TemplateLoader)
    events = template["Resources"]["Cancel"]["Properties"]["Events"]
    event = {
        "id": "1",
        "version": "0",
        "account": "111111111111",
        "region": "eu-west-1",
        "time": "2026-01-01T00:00:00Z",
        "source": "aws.states",
        "detail-type": "Step Functions Execution Status Change",
        "resources": [f"{ARN}:execution:{execution}"],
        "detail": {
            "status": status,
            "stateMachineArn": f"{ARN}:stateMachine:{machine}",
            "executionArn": f"{ARN}:execution:{execution}",
        },
    }
    response = local_cloud.client("events").test_event_pattern(
        EventPattern=json.dumps(events["ExecutionEnded"]["Properties"]["Pattern"]),
        Event=json.dumps(event),
    )
    return response["Result"]


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"])
def test_every_ended_job_is_searched(local_cloud, status):
    assert is_called(local_cloud, status, "stepward-nodes-dispatch", "stepward-nodes-dispatch:run")


def test_a_running_job_is_not_searched(local_cloud):
    assert not is_called(local_cloud, "RUNNING", "stepward-step-run", "stepward-step-run:run")


def test_jobs_of_other_stacks_are_not_searched(local_cloud):
    assert not is_called(local_cloud, "FAILED", "other-step-run", "other-step-run:run")


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED"])
def test_items_of_a_dispatch_are_not_searched(local_cloud, status):
    # https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html
    machine, execution = "stepward-nodes-dispatch/Items", "stepward-nodes-dispatch/Items:4f6e"
    assert not is_called(local_cloud, status, machine, execution)
