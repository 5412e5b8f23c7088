"""S3: ListMultipartUploads returns the ARN of the role session that started an upload, as on AWS.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_Initiator.html
"""

import re
from xml.sax.saxutils import escape

from ministack.core.responses import get_account_id
from ministack.services import s3, sts

UPLOAD = re.compile(r"<Upload>.*?</Upload>", re.DOTALL)
UPLOAD_ID = re.compile(r"<UploadId>([^<]*)</UploadId>")
INITIATOR_ID = re.compile(r"(<Initiator><ID>)[^<]*")

create_multipart_upload = s3._create_multipart_upload
list_multipart_uploads = s3._list_multipart_uploads


def create_upload_with_initiator(bucket, key, headers):
    response = create_multipart_upload(bucket, key, headers)
    created = UPLOAD_ID.search(response[2].decode()) if response[0] == 200 else None
    if created:
        s3._multipart_uploads[created[1]]["initiator"] = initiator(headers.get("authorization", ""))
    return response


def initiator(authorization):
    """Returns the ARN of the role session that signed the request, or the account ID."""
    signer = re.search(r"Credential=([^/]+)/", authorization)
    session = sts._sessions.get(signer[1]) if signer else None
    return session["Arn"] if session else get_account_id()


def list_uploads_with_initiators(bucket, query):
    status, headers, body = list_multipart_uploads(bucket, query)
    initiators = {
        upload_id: upload["initiator"] for upload_id, upload in s3._multipart_uploads.items()
    }
    return status, headers, with_initiators(body.decode(), initiators).encode()


def with_initiators(listing, initiators):
    def named(upload):
        text = upload[0]
        name = initiators[UPLOAD_ID.search(text)[1]]
        return INITIATOR_ID.sub(lambda found: found[1] + escape(name), text)

    return UPLOAD.sub(named, listing)


def install():
    s3._create_multipart_upload = create_upload_with_initiator
    s3._list_multipart_uploads = list_uploads_with_initiators
