"""A MiniStack whose S3 a test fills and looks at from inside: usage `python server.py`, requests as JSON lines on standard
input, answers as JSON lines on standard output. It ends when standard input does.

From outside nobody can set when an object was last modified, which is half of what `sync` decides by. And MiniStack alone
- does not say who began a multipart upload; on AWS it is the ARN of the role session:
  https://docs.aws.amazon.com/AmazonS3/latest/API/API_Initiator.html
- takes the CRC64NVME of an object made of parts for one of the parts' checksums;
- copies archived objects.
This leans on names that are private to MiniStack 1.5.33; with another version it fails at start, not silently.
"""

import functools
import hashlib
import json
import os
import re
import signal
import struct
import sys
import threading
from datetime import datetime, timezone

answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

from ministack.app import main  # noqa: E402
from ministack.core.responses import set_request_account_id  # noqa: E402
from ministack.services import s3, sts  # noqa: E402

REGION = "eu-west-1"
ACCOUNT = "222222222222"


@functools.lru_cache(maxsize=64)
def content(size, fill):
    """Every 64 bytes are others, so that parts in the wrong order show."""
    blocks = (f"{block:08x}{fill:08x}".ljust(63, ".") + "\n" for block in range((size + 63) // 64))
    return "".join(blocks).encode()[:size]


def fill(buckets):
    for state in (s3._buckets, s3._multipart_uploads, s3._completed_multipart_uploads):
        state._data.clear()
    # Large outputs go to the broker's bucket; MiniStack takes its key for that of no account in particular.
    set_request_account_id("")
    s3._buckets["stepward-artifacts-111111111111"] = {"created": s3.now_iso(), "objects": {}, "region": REGION}
    set_request_account_id(ACCOUNT)
    for bucket, objects in buckets.items():
        s3._buckets[bucket] = {"created": s3.now_iso(), "objects": {}, "region": REGION}
        for wanted in objects:
            headers = {"content-type": wanted["content_type"], "x-amz-storage-class": wanted["storage_class"]}
            headers |= {f"x-amz-meta-{name}": value for name, value in wanted["metadata"].items()}
            record = s3._build_object_record(content(wanted["size"], wanted["fill"]), headers)
            modified = datetime.fromtimestamp(wanted["modified"], timezone.utc)
            record["last_modified"] = modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
            s3._buckets[bucket]["objects"][wanted["key"]] = record


def look():
    def seen(record):
        return {
            "size": record["size"],
            "sha256": hashlib.sha256(record["body"]).hexdigest(),
            "content_type": record["content_type"],
            "storage_class": record["storage_class"],
            "metadata": dict(record["metadata"], **record["preserved_headers"]),
            "modified": record["last_modified"],
        }

    buckets = {
        name: {key: seen(record) for key, record in bucket["objects"].items()}
        for (_, name), bucket in s3._buckets._data.items()
    }
    uploads = [[upload["bucket"], upload["key"]] for upload in s3._multipart_uploads._data.values()]
    return {"buckets": buckets, "uploads": uploads}


def serve():
    for line in sys.stdin:
        request = json.loads(line)
        if "fill" in request:
            answer = fill(request["fill"])
        elif "kill" in request:
            answer = victim.update(request["kill"], seen=0)
        else:
            answer = {**look(), "requests": victim["seen"]}
        answers.write(json.dumps(answer) + "\n")
    os._exit(0)


# --- The end of a process at a certain request ---

victim = {"process": None, "request": 0, "is_answered": False, "seen": 0}
handle_request = s3.handle_request


def kill_at(request):
    if victim["process"] and victim["request"] == request:
        os.kill(victim["process"], signal.SIGKILL)
        victim["process"] = None


@functools.wraps(handle_request)
async def handle_request_and_kill(*arguments, **named):
    victim["seen"] += 1
    number = victim["seen"]
    if not victim["is_answered"]:
        kill_at(number)
    answer = await handle_request(*arguments, **named)
    kill_at(number)
    return answer


s3.handle_request = handle_request_and_kill

# --- Who began an upload ---

create_multipart_upload = s3._create_multipart_upload
list_multipart_uploads = s3._list_multipart_uploads


def create_attributed_upload(bucket, key, headers):
    before = set(s3._multipart_uploads._data)
    answer = create_multipart_upload(bucket, key, headers)
    signer = re.search(r"Credential=([^/]+)/", headers.get("authorization", ""))
    session = sts._sessions.get(signer.group(1)) if signer else None
    for upload in set(s3._multipart_uploads._data) - before:
        s3._multipart_uploads._data[upload]["initiator"] = session["Arn"] if session else ACCOUNT
    return answer


def list_attributed_uploads(bucket, query):
    status, headers, body = list_multipart_uploads(bucket, query)
    begun_by = {scoped[1]: upload["initiator"] for scoped, upload in s3._multipart_uploads._data.items()}

    def attributed(found):
        upload = re.search(r"<UploadId>([^<]*)</UploadId>", found.group(0)).group(1)
        return re.sub(r"(<Initiator><ID>)[^<]*", lambda id: id.group(1) + begun_by[upload], found.group(0))

    return status, headers, re.sub(r"<Upload>.*?</Upload>", attributed, body.decode(), flags=re.DOTALL).encode()


s3._create_multipart_upload = create_attributed_upload
s3._list_multipart_uploads = list_attributed_uploads


# --- Copies of archived objects ---

copy_object = s3._copy_object
upload_part_copy = s3._upload_part_copy


def archived(headers):
    """S3 copies nothing that must be restored first, as MiniStack does.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html (ObjectNotInActiveTierError)
    """
    path = s3.url_unquote(headers.get("x-amz-copy-source", "").lstrip("/").partition("?")[0])
    bucket, _, key = path.partition("/")
    found = (s3._buckets.get(bucket) or {"objects": {}})["objects"].get(key, {})
    storage_class = found.get("storage_class")
    return s3._invalid_object_state(bucket, key, storage_class) if storage_class in ("GLACIER", "DEEP_ARCHIVE") else None


s3._copy_object = lambda bucket, key, headers: archived(headers) or copy_object(bucket, key, headers)
s3._upload_part_copy = lambda bucket, key, query, headers: (
    archived(headers) or upload_part_copy(bucket, key, query, headers)
)


# --- The checksum of an object made of parts ---

# Two bytes at a time: MiniStack takes a second for 8 MiB.
PAIRS = [s3._CRC64NVME_TABLE[pair & 0xFF] for pair in range(65536)]
PAIRS = [s3._CRC64NVME_TABLE[(crc ^ pair >> 8) & 0xFF] ^ crc >> 8 for pair, crc in enumerate(PAIRS)]


def crc64nvme(body):
    crc, even = s3._CRC64NVME_INIT, len(body) & ~1
    for (pair,) in struct.iter_unpack("<H", memoryview(body)[:even]):
        crc = PAIRS[(crc ^ pair) & 0xFFFF] ^ crc >> 16
    for byte in body[even:]:
        crc = s3._CRC64NVME_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ s3._CRC64NVME_INIT


assert crc64nvme(b"123456789") == 0xAE8B14860A799888
s3._crc64nvme = crc64nvme

compute_checksum = s3._compute_s3_checksum
complete_multipart_upload = s3._complete_multipart_upload
composite_checksum = s3._composite_checksum
checksums = {}
completing = {"parts": []}


def compute_checksum_once(algorithm, body):
    # Contents come again and again.
    key = algorithm, hashlib.sha256(body).digest()
    if key not in checksums:
        checksums[key] = compute_checksum(algorithm, body)
    return checksums[key]


def checksum_of_all(algorithm, part_checksums):
    # Of the kinds that S3 has for this algorithm there is only that of the whole object:
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html
    if algorithm == "CRC64NVME":
        return compute_checksum_once(algorithm, b"".join(completing["parts"]))
    return composite_checksum(algorithm, part_checksums)


def complete_upload_with_checksum_of_all(bucket, key, body, query, headers=None):
    upload = s3._multipart_uploads.get(s3._qp(query, "uploadId")) or {"parts": {}}
    completing["parts"] = [part["body"] for _, part in sorted(upload["parts"].items())]
    answer = complete_multipart_upload(bucket, key, body, query, headers)
    made = (s3._buckets.get(bucket) or {"objects": {}})["objects"].get(key, {})
    if "CRC64NVME" in made.get("checksums", {}):
        made["checksum_type"] = "FULL_OBJECT"
    return answer


s3._compute_s3_checksum = compute_checksum_once
s3._composite_checksum = checksum_of_all
s3._complete_multipart_upload = complete_upload_with_checksum_of_all

threading.Thread(target=serve, daemon=True).start()
main()
