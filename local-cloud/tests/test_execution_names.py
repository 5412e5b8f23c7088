import json
import uuid

import pytest
from botocore.exceptions import ClientError
from state_machines import TRUST, create_role, ended

WAIT = {"StartAt": "Wait", "States": {"Wait": {"Type": "Wait", "Seconds": 2, "End": True}}}
PASS = {"StartAt": "Pass", "States": {"Pass": {"Type": "Pass", "End": True}}}


class Machine:
    def __init__(self, cloud, definition):
        self.client = cloud.client("stepfunctions")
        self.arn = self.client.create_state_machine(
            name=f"machine-{uuid.uuid4().hex[:8]}",
            definition=json.dumps(definition),
            roleArn=create_role(cloud, TRUST),
        )["stateMachineArn"]

    def start(self, name, text="{}"):
        started = self.client.start_execution(stateMachineArn=self.arn, name=name, input=text)
        return started["executionArn"], started["startDate"]

    def refusal(self, name, text="{}"):
        with pytest.raises(ClientError) as refused:
            self.start(name, text)
        return refused.value.response["Error"]["Code"]


def test_ministack_lacks_the_second_start_of_an_execution(ministack):
    machine = Machine(ministack, WAIT)
    machine.start("nightly")
    assert machine.refusal("nightly") == "ExecutionAlreadyExists"


def test_ministack_lacks_the_refusal_of_names(ministack):
    Machine(ministack, PASS).start("a b")


def test_a_running_execution_is_not_started_twice(local_cloud):
    machine = Machine(local_cloud, WAIT)
    first = machine.start("nightly", '{"a":1}')
    assert machine.start("nightly", '{"a":1}') == first
    assert machine.refusal("nightly", '{"a":2}') == "ExecutionAlreadyExists"


def test_the_name_of_an_ended_execution_is_refused(local_cloud):
    machine = Machine(local_cloud, PASS)
    execution, _ = machine.start("nightly")
    ended(local_cloud, execution)
    assert machine.refusal("nightly") == "ExecutionAlreadyExists"


@pytest.mark.parametrize("name", ["a b", "a/b", "a:b", "a\n", "x" * 81])
def test_an_invalid_name_is_refused(local_cloud, name):
    assert Machine(local_cloud, PASS).refusal(name) == "InvalidName"
