import pytest

from stepward_local_cloud import run_command
from stepward_local_cloud.run_command import (
    Command,
    absolute_limit,
    advance,
    cancel_invocation,
    end_invocation,
)


@pytest.fixture
def started(monkeypatch):
    started = []

    class Queue:
        put = staticmethod(started.append)

    monkeypatch.setattr(run_command, "to_run", Queue)
    return started


def command(monkeypatch, statuses, **request):
    monkeypatch.setattr(run_command, "ping", lambda account, region, node: statuses.get(node))
    return Command(request, "AWS-RunShellScript", {"commands": ["true"]}, list(statuses))


def finish(started, details="Success"):
    invocation = started.pop(0)
    end_invocation(invocation, {"ExecutionTimedOut": "TimedOut"}.get(details, details), details, 0)
    advance(invocation.command)


def test_limits_are_numbers_or_percentages():
    assert [absolute_limit("7", 200), absolute_limit("10%", 200), absolute_limit("1%", 50)] == [
        7,
        20,
        0,
    ]


def test_no_more_than_max_concurrency_run_at_once(monkeypatch, started):
    sent = command(monkeypatch, dict.fromkeys("abc", "Online"), MaxConcurrency="2")
    advance(sent)
    assert [invocation.node for invocation in started] == ["a", "b"]
    finish(started)
    assert [invocation.node for invocation in started] == ["b", "c"]
    assert sent.status() == ("InProgress", "InProgress")
    finish(started)
    finish(started)
    assert sent.status() == ("Success", "Success")


def test_after_too_many_errors_the_rest_is_terminated(monkeypatch, started):
    sent = command(monkeypatch, dict.fromkeys("abc", "Online"), MaxConcurrency="1", MaxErrors="0")
    advance(sent)
    finish(started, "Failed")
    assert [invocation.details for invocation in sent.invocations.values()] == [
        "Failed",
        "Terminated",
        "Terminated",
    ]
    assert sent.status() == ("Failed", "Failed")


def test_a_stopped_instance_runs_its_command_when_it_starts(monkeypatch, started):
    statuses = {"a": "Stopped"}
    sent = command(monkeypatch, statuses)
    advance(sent)
    assert (started, sent.status()) == ([], ("Pending", "Delayed"))
    statuses["a"] = "Online"
    advance(sent)
    assert [invocation.node for invocation in started] == ["a"]


def test_a_command_for_lost_instances_is_undeliverable(monkeypatch, started):
    sent = command(monkeypatch, {"a": "ConnectionLost"})
    advance(sent)
    assert sent.invocations["a"].details == "Undeliverable"
    assert sent.status() == ("Failed", "Failed")


def test_an_expired_command_is_not_delivered(monkeypatch, started):
    sent = command(monkeypatch, {"a": "Stopped"})
    advance(sent)
    sent.expires = 0
    advance(sent)
    assert sent.status() == ("TimedOut", "DeliveryTimedOut")


def test_a_running_invocation_is_cancelled_when_it_ends(monkeypatch, started):
    sent = command(monkeypatch, dict.fromkeys("ab", "Online"), MaxConcurrency="1")
    advance(sent)
    sent.cancelled = True
    for invocation in reversed(sent.invocations.values()):
        cancel_invocation(invocation)
    assert [invocation.status for invocation in sent.invocations.values()] == [
        "Cancelling",
        "Cancelled",
    ]
    assert sent.status() == ("Cancelling", "Cancelling")
    finish(started, "Cancelled")
    assert sent.status() == ("Cancelled", "Cancelled")


def test_a_command_without_instances_succeeds(monkeypatch):
    assert command(monkeypatch, {}).status() == ("Success", "NoInstancesInTag")
