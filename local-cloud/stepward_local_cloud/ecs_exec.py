"""ECS Exec: the task's tag `stepward:stream` contains the URL of the session's stream.

The local cloud has no ECS agent, so a test starts a fake agent and names it in the tag. The
stream's URL contains the command in hexadecimal, because the fake cannot get it in another way.
Without the tag the stream is on AWS's own host, as in MiniStack.
"""

import json

from ministack.services import ecs

STREAM_TAG = "stepward:stream"

execute_command = ecs._ACTION_MAP["ExecuteCommand"]


def execute_command_on_tagged_stream(data):
    status, headers, body = execute_command(data)
    if status == 200:
        response = json.loads(body)
        tags = {
            tag["key"]: tag["value"] for tag in ecs._tasks[response["taskArn"]].get("tags") or []
        }
        response["session"] = session_on_stream(
            response["session"], tags.get(STREAM_TAG), data.get("command", "")
        )
        body = json.dumps(response).encode()
    return status, headers, body


def session_on_stream(session, stream, command):
    # AWS's session IDs begin like this.
    session = {**session, "sessionId": f"ecs-execute-command-{session['sessionId']}"}
    if stream:
        session["streamUrl"] = f"{stream}/{session['sessionId']}?command={command.encode().hex()}"
    return session


def install():
    ecs._ACTION_MAP["ExecuteCommand"] = execute_command_on_tagged_stream
