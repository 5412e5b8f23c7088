"""Creates buckets on a server."""

import uuid


def create_bucket(cloud):
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    cloud.client("s3").create_bucket(
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    return name
