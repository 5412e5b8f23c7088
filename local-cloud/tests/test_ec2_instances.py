import uuid

import pytest
from botocore.exceptions import ClientError

from stepward_local_cloud.ec2_instances import page_bounds, page_token

IMAGE = "ami-12345678"


def launch(cloud, count=1, image=IMAGE, **fields):
    launched = cloud.client("ec2").run_instances(
        ImageId=image, MinCount=count, MaxCount=count, **fields
    )
    return [instance["InstanceId"] for instance in launched["Instances"]]


def launches_with_one_token(cloud):
    token = uuid.uuid4().hex
    return [launch(cloud, ClientToken=token) for _ in range(2)]


def tagged_pages(cloud):
    """Returns the sizes of the pages of a list of seven instances with one tag."""
    value, ec2 = uuid.uuid4().hex, cloud.client("ec2")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "test", "Value": value}]}]
    launch(cloud, 7, TagSpecifications=tags)
    sizes, more = [], {}
    while not sizes or more:
        filters = [{"Name": "tag:test", "Values": [value]}]
        page = ec2.describe_instances(Filters=filters, MaxResults=5, **more)
        sizes.append(sum(len(reservation["Instances"]) for reservation in page["Reservations"]))
        more = {"NextToken": page["NextToken"]} if page.get("NextToken") else {}
    return sizes


def image_of_snapshot(cloud):
    ec2 = cloud.client("ec2")
    volume = ec2.create_volume(AvailabilityZone="eu-west-1a", Size=1)["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    disk = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}
    name = f"image-{uuid.uuid4().hex}"
    return ec2.register_image(Name=name, RootDeviceName="/dev/xvda", BlockDeviceMappings=[disk])[
        "ImageId"
    ]


def test_ministack_lacks_client_tokens(ministack):
    first, second = launches_with_one_token(ministack)
    assert first != second


def test_ministack_lacks_pages(ministack):
    assert tagged_pages(ministack) == [7]


def test_ministack_lacks_launches_of_images_of_snapshots(ministack):
    with pytest.raises(ClientError, match="InvalidAMIID.Unavailable"):
        launch(ministack, image=image_of_snapshot(ministack))


def test_a_repeated_launch_with_one_client_token_launches_once(local_cloud):
    first, second = launches_with_one_token(local_cloud)
    assert first == second


def test_instances_are_listed_in_pages(local_cloud):
    assert tagged_pages(local_cloud) == [5, 2]


def test_an_image_of_a_snapshot_is_launched(local_cloud):
    assert launch(local_cloud, image=image_of_snapshot(local_cloud))


def test_a_page_has_5_to_1000_instances():
    assert page_bounds("1", "") == (0, 5)
    assert page_bounds("", "") == (0, 1000)
    assert page_bounds("5000", "") == (0, 1000)
    assert page_bounds("7", page_token(21)) == (21, 28)
