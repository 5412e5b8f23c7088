"""EC2: images that were registered from a snapshot, client tokens, and pages of instances."""

import base64
import threading

from ministack.core.responses import AccountRegionScopedDict
from ministack.services import ec2

launches = AccountRegionScopedDict()  # responses of RunInstances by client token
launching = threading.Lock()

registered_image = ec2._registered_image
run_instances = ec2._ACTION_MAP["RunInstances"]
describe_instances = ec2._ACTION_MAP["DescribeInstances"]
parameter = ec2._p
reset_ec2 = ec2.reset


def launchable_image(image_id):
    # MiniStack starts a container for an image with a location, and refuses an image without one.
    # If it does not find the image, it launches an instance without a container.
    image = registered_image(image_id)
    return image if image and image["ImageLocation"] else None


def run_instances_once(parameters):
    token = parameter(parameters, "ClientToken")
    with launching:
        response = launches.get(token) if token else None
        if response is None:
            response = run_instances(parameters)
            if token and response[0] == 200:
                launches[token] = response
    return response


def describe_page_of_instances(parameters):
    # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html: 5 to 1,000
    # a page
    if ec2._parse_member_list(parameters, "InstanceId"):
        return describe_instances(parameters)
    ec2._cleanup_terminated()
    filters = ec2._parse_filters(parameters)
    found = [
        instance for instance in ec2._instances.values() if ec2._matches_filters(instance, filters)
    ]
    start, end = page_bounds(
        parameter(parameters, "MaxResults"), parameter(parameters, "NextToken")
    )
    page = found[start:end]
    if not page:
        return ec2._xml(200, "DescribeInstancesResponse", "<reservationSet/>")
    ids = {
        f"InstanceId.{number}": [instance["InstanceId"]] for number, instance in enumerate(page, 1)
    }
    status, headers, body = describe_instances(ids)
    if status == 200 and end < len(found):
        body = body.replace(
            b"</reservationSet>",
            b"</reservationSet><nextToken>" + page_token(end) + b"</nextToken>",
        )
    return status, headers, body


def page_bounds(max_results, token):
    size = min(max(int(max_results or 1000), 5), 1000)
    start = int(base64.b64decode(token)) if token else 0
    return start, start + size


def page_token(start):
    return base64.b64encode(str(start).encode())


def reset():
    launches.clear()
    reset_ec2()


def install():
    ec2._registered_image = launchable_image
    ec2._ACTION_MAP["RunInstances"] = run_instances_once
    ec2._ACTION_MAP["DescribeInstances"] = describe_page_of_instances
    ec2.reset = reset
