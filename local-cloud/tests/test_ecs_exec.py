from stepward_local_cloud.ecs_exec import STREAM_TAG, session_on_stream


def session_of(cloud, *tags):
    ecs = cloud.client("ecs")
    ecs.create_cluster(clusterName="cluster")
    ecs.register_task_definition(
        family="family", containerDefinitions=[{"name": "app", "image": "image"}]
    )
    tasks = ecs.run_task(
        cluster="cluster", taskDefinition="family", enableExecuteCommand=True, tags=list(tags)
    )
    task = tasks["tasks"][0]["taskArn"]
    return ecs.execute_command(
        cluster="cluster", task=task, container="app", command="ls -l", interactive=True
    )["session"]


TAG = {"key": STREAM_TAG, "value": "ws://127.0.0.1:1/channel"}


def test_ministack_lacks_streams_that_end_anywhere_but_on_aws(ministack):
    assert session_of(ministack, TAG)["streamUrl"].startswith(
        "wss://ssmmessages.eu-west-1.amazonaws.com/"
    )


def test_a_session_leads_to_the_tagged_stream(local_cloud):
    session = session_of(local_cloud, TAG)
    assert session["sessionId"].startswith("ecs-execute-command-")
    assert (
        session["streamUrl"]
        == f"ws://127.0.0.1:1/channel/{session['sessionId']}?command={b'ls -l'.hex()}"
    )


def test_a_session_without_the_tag_leads_to_aws(local_cloud):
    assert session_of(local_cloud)["streamUrl"].startswith(
        "wss://ssmmessages.eu-west-1.amazonaws.com/"
    )


def test_the_command_reaches_the_stream_whatever_its_characters():
    session = session_on_stream({"sessionId": "1"}, "ws://host", "echo 'ü&?'")
    assert bytes.fromhex(session["streamUrl"].partition("?command=")[2]).decode() == "echo 'ü&?'"
