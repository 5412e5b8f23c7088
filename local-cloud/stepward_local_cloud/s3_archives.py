"""S3: an archived object cannot be copied before it is restored.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html (ObjectNotInActiveTierError)
"""

from ministack.services import s3

copy_object = s3._copy_object
upload_part_copy = s3._upload_part_copy


def refusal(headers):
    """Returns the error response if the source of a copy is archived, or None."""
    bucket, key = copy_source(headers.get("x-amz-copy-source", ""))
    found = (s3._buckets.get(bucket) or {"objects": {}})["objects"].get(key, {})
    storage_class = found.get("storage_class")
    if (
        storage_class not in s3._ARCHIVE_STORAGE_CLASSES
        or s3._sync_restore(bucket, key, found) == "restored"
    ):
        return None
    return s3._invalid_object_state(bucket, key, storage_class)


def copy_source(header):
    """Returns the bucket and the key of an `x-amz-copy-source` header."""
    bucket, _, key = s3.url_unquote(header.lstrip("/").partition("?")[0]).partition("/")
    return bucket, key


def copy_active_object(bucket, key, headers):
    return refusal(headers) or copy_object(bucket, key, headers)


def copy_part_of_active_object(bucket, key, query, headers):
    return refusal(headers) or upload_part_copy(bucket, key, query, headers)


def install():
    s3._copy_object = copy_active_object
    s3._upload_part_copy = copy_part_of_active_object
