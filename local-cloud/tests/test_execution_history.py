import json

import pytest
from ministack.services import stepfunctions as sfn
from state_machines import run

from stepward_local_cloud import execution_history

PASS = {"Type": "Pass", "End": True}
MAP = {
    "StartAt": "Each",
    "QueryLanguage": "JSONata",
    "States": {
        "Each": {
            "Type": "Map",
            "Items": "{% [1, 2] %}",
            "MaxConcurrency": 1,
            "ItemProcessor": {"StartAt": "One", "States": {"One": PASS}},
            "Next": "After",
        },
        "After": PASS,
    },
}

CALL = {
    "StartAt": "Call",
    "QueryLanguage": "JSONata",
    "States": {
        "Call": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Arguments": {
                "FunctionName": "{% 'no-' & 'function' %}",
                "Payload": {"days": "{% 3 + 4 %}"},
            },
            "End": True,
        },
    },
}


def scheduled(cloud):
    """Returns the details of the event TaskScheduled of a task."""
    execution = run(cloud, CALL)["executionArn"]
    events = cloud.client("stepfunctions").get_execution_history(executionArn=execution)["events"]
    return next(
        event["taskScheduledEventDetails"] for event in events if event["type"] == "TaskScheduled"
    )


def test_ministack_lacks_the_arguments_of_a_task(ministack):
    assert "parameters" not in scheduled(ministack)


def test_a_scheduled_task_has_its_arguments(local_cloud):
    parameters = json.loads(scheduled(local_cloud)["parameters"])
    assert parameters == {"FunctionName": "no-function", "Payload": {"days": 7}}


def events_of(cloud):
    execution = run(cloud, MAP)["executionArn"]
    events = cloud.client("stepfunctions").get_execution_history(executionArn=execution)["events"]
    return [(event.get("previousEventId"), event["type"]) for event in events]


def test_ministack_lacks_linked_events_and_iterations(ministack):
    events = events_of(ministack)
    assert {previous for previous, _ in events} == {None}
    assert not [kind for _, kind in events if kind.startswith("MapIteration")]


def test_each_event_names_the_one_before_it_on_its_branch(local_cloud):
    assert events_of(local_cloud)[1:] == [
        (0, "MapStateEntered"),
        (2, "MapIterationStarted"),
        (3, "MapIterationSucceeded"),
        (2, "MapIterationStarted"),
        (5, "MapIterationSucceeded"),
        (2, "MapStateExited"),
        (7, "PassStateEntered"),
        (8, "PassStateExited"),
        (9, "ExecutionSucceeded"),
    ]


@pytest.fixture
def execution():
    execution_history.previous_event_id.set(0)
    execution_history.map_item.set(None)
    return {"status": "RUNNING", "events": []}


def test_the_first_event_follows_none(execution):
    execution_history.previous_event_id.set(7)
    first = execution_history.add_linked_event(execution, "ExecutionStarted")
    second = execution_history.add_linked_event(
        execution, "PassStateEntered", {"stateEnteredEventDetails": {}}
    )
    assert (first["previousEventId"], second["previousEventId"]) == (0, 1)
    assert second["stateEnteredEventDetails"] == {}


def test_a_branch_of_a_stopped_execution_adds_no_events(execution):
    execution_history.add_linked_event(execution, "ExecutionStarted")
    execution["status"] = "ABORTED"
    execution_history.add_linked_event(execution, "TaskStateEntered")
    execution_history.add_linked_event(execution, "ExecutionAborted")
    assert [event["type"] for event in execution["events"]] == [
        "ExecutionStarted",
        "ExecutionAborted",
    ]


def test_a_stopped_execution_does_not_fail_afterwards(execution):
    execution["status"] = "ABORTED"
    execution_history.fail_running_execution(execution, "States.TaskFailed", "late")
    assert execution["status"] == "ABORTED"


def test_a_branch_of_a_stopped_execution_calls_no_task(execution):
    execution["status"] = "ABORTED"
    with pytest.raises(sfn._ExecutionError):
        execution_history.execute_recorded_task({}, {}, execution, {"State": {"Name": "Call"}})
