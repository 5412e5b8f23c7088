import json
import time
import uuid
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from conftest import HERE, started

ENDED = ("Success", "Failed", "TimedOut", "Cancelled")


def launch_node(cloud):
    iam, name = cloud.client("iam"), f"node-{uuid.uuid4().hex[:8]}"
    iam.create_instance_profile(InstanceProfileName=name)
    launched = cloud.client("ec2").run_instances(
        ImageId="ami-12345678", MinCount=1, MaxCount=1, IamInstanceProfile={"Name": name}
    )
    return launched["Instances"][0]["InstanceId"]


def send(cloud, node, *commands, **fields):
    request = {
        "DocumentName": "AWS-RunShellScript",
        "InstanceIds": [node],
        "Parameters": {"commands": list(commands)},
    }
    return cloud.client("ssm").send_command(**request, **fields)["Command"]["CommandId"]


def result(cloud, node, command):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            invocation = cloud.client("ssm").get_command_invocation(
                CommandId=command, InstanceId=node
            )
        except ClientError as error:
            assert error.response["Error"]["Code"] == "InvocationDoesNotExist"
        else:
            if invocation["Status"] in ENDED:
                return invocation
        time.sleep(0.05)
    raise TimeoutError(command)


@pytest.fixture
def own_local_cloud(tmp_path):
    yield from started([HERE, tmp_path / "alive.lock", "attached"], tmp_path)


@pytest.fixture(scope="module")
def node(local_cloud):
    return launch_node(local_cloud)


def test_ministack_lacks_instances_that_commands_can_be_sent_to(ministack):
    with pytest.raises(ClientError, match="InvalidInstanceId"):
        send(ministack, launch_node(ministack), "true")


def test_a_command_returns_output_and_exit_code(local_cloud, node):
    invocation = result(
        local_cloud, node, send(local_cloud, node, "echo out", "echo err >&2", "exit 3")
    )
    assert (invocation["Status"], invocation["ResponseCode"]) == ("Failed", 3)
    assert invocation["StandardOutputContent"] == "out\n"
    assert invocation["StandardErrorContent"] == "err\nfailed to run commands: exit status 3"


def test_a_command_runs_in_a_private_directory(local_cloud, node):
    commands = ["pwd", "env", 'ls -ld "$HOME" "$HOME/.."', 'echo "$0"', "missing-command"]
    invocation = result(local_cloud, node, send(local_cloud, node, *commands))
    output = invocation["StandardOutputContent"] + invocation["StandardErrorContent"]
    assert output.count("drwx------") == 2
    assert "missing-command" in invocation["StandardErrorContent"]
    assert str(local_cloud.log.parent) not in output
    assert str(Path(__file__).parents[2]) not in output


def test_the_directory_of_commands_is_removed_at_the_end(own_local_cloud):
    node = launch_node(own_local_cloud)
    command = send(own_local_cloud, node, "cd ../.. && pwd")
    directory = Path(result(own_local_cloud, node, command)["StandardOutputContent"].strip())
    assert directory.name.startswith("stepward-nodes-") and directory.is_dir()
    own_local_cloud.process.kill()
    until = time.monotonic() + 15
    while directory.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not directory.exists()


def test_a_parameter_of_parameter_store_is_inserted(local_cloud, node):
    name = f"name-{uuid.uuid4().hex[:8]}"
    local_cloud.client("ssm").put_parameter(Name=name, Value="value", Type="String")
    command = send(local_cloud, node, f"echo {{{{ ssm:{name} }}}}")
    assert result(local_cloud, node, command)["StandardOutputContent"] == "value\n"


def test_a_missing_parameter_of_parameter_store_is_refused(local_cloud, node):
    with pytest.raises(ClientError, match="InvalidParameters"):
        send(local_cloud, node, "echo {{ssm:missing}}")


def test_a_cancelled_command_is_ended(local_cloud, node):
    command = send(local_cloud, node, "sleep 60")
    time.sleep(0.3)
    local_cloud.client("ssm").cancel_command(CommandId=command)
    invocation = result(local_cloud, node, command)
    assert (invocation["Status"], invocation["StandardOutputContent"]) == ("Cancelled", "")


def test_a_command_that_takes_too_long_is_ended(local_cloud, node):
    request = {"commands": ["sleep 60"], "executionTimeout": ["1"]}
    sent = local_cloud.client("ssm").send_command(
        DocumentName="AWS-RunShellScript", InstanceIds=[node], Parameters=request
    )
    invocation = result(local_cloud, node, sent["Command"]["CommandId"])
    assert (invocation["Status"], invocation["StatusDetails"]) == ("TimedOut", "ExecutionTimedOut")


def test_instances_with_a_profile_are_listed(local_cloud, node):
    listed = local_cloud.client("ssm").describe_instance_information(
        Filters=[{"Key": "InstanceIds", "Values": [node]}]
    )["InstanceInformationList"]
    assert [(one["InstanceId"], one["PingStatus"]) for one in listed] == [(node, "Online")]


def test_calls_are_counted_by_operation(local_cloud, node):
    before = json.loads(local_cloud.get("/_stepward/ssm/calls"))
    local_cloud.client("ssm").list_commands()
    after = json.loads(local_cloud.get("/_stepward/ssm/calls"))
    assert after["ListCommands"] == before.get("ListCommands", 0) + 1
