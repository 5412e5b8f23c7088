import pytest
from botocore.exceptions import ClientError
from buckets import create_bucket

from stepward_local_cloud.s3_archives import copy_source


def size_of_copy(cloud, storage_class):
    bucket, s3 = create_bucket(cloud), cloud.client("s3")
    s3.put_object(Bucket=bucket, Key="a key", Body=b"content", StorageClass=storage_class)
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a key"})
    return s3.head_object(Bucket=bucket, Key="copy")["ContentLength"]


def test_ministack_lacks_the_refusal_of_copies_of_archived_objects(ministack):
    assert size_of_copy(ministack, "GLACIER") == 7


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_is_not_copied(local_cloud, storage_class):
    with pytest.raises(ClientError, match="InvalidObjectState"):
        size_of_copy(local_cloud, storage_class)


@pytest.mark.parametrize("storage_class", ["STANDARD", "GLACIER_IR"])
def test_other_objects_are_copied(local_cloud, storage_class):
    assert size_of_copy(local_cloud, storage_class) == 7


def test_a_copy_source_is_decoded():
    assert copy_source("/bucket/a%20key/b?versionId=1") == ("bucket", "a key/b")
    assert copy_source("bucket/a%3Fb") == ("bucket", "a?b")
