import base64

import pytest
from botocore.exceptions import ClientError
from buckets import create_bucket
from ministack.services import s3

PARTS = [b"1" * 1000, b"23456789"]
WHOLE = base64.b64encode(s3._crc64nvme(b"".join(PARTS)).to_bytes(8, "big")).decode()


def upload(cloud, **completion):
    bucket, client = create_bucket(cloud), cloud.client("s3")
    created = client.create_multipart_upload(
        Bucket=bucket, Key="key", ChecksumAlgorithm="CRC64NVME"
    )
    of_upload = {"Bucket": bucket, "Key": "key", "UploadId": created["UploadId"]}
    parts = [
        {
            "PartNumber": number,
            "ETag": client.upload_part(**of_upload, PartNumber=number, Body=part)["ETag"],
        }
        for number, part in enumerate(PARTS, 1)
    ]
    completed = client.complete_multipart_upload(
        **of_upload, MultipartUpload={"Parts": parts}, **completion
    )
    head = client.head_object(Bucket=bucket, Key="key", ChecksumMode="ENABLED")
    return [
        (response["ChecksumCRC64NVME"], response["ChecksumType"]) for response in (completed, head)
    ]


def test_the_checksum_is_that_of_the_standard():
    assert s3._crc64nvme(b"123456789") == 0xAE8B14860A799888


def test_ministack_lacks_checksums_of_whole_objects(ministack):
    assert {kind for _, kind in upload(ministack)} == {"COMPOSITE"}
    with pytest.raises(ClientError, match="BadDigest"):
        upload(ministack, ChecksumCRC64NVME=WHOLE)


def test_an_object_of_parts_has_the_checksum_of_its_content(local_cloud):
    assert upload(local_cloud, ChecksumCRC64NVME=WHOLE) == [(WHOLE, "FULL_OBJECT")] * 2


def test_a_wrong_checksum_of_the_whole_object_is_refused(local_cloud):
    with pytest.raises(ClientError, match="BadDigest"):
        upload(local_cloud, ChecksumCRC64NVME="AAAAAAAAAAA=")
