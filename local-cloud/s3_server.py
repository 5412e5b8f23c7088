"""A MiniStack whose S3 a test fills and inspects directly: `python local-cloud/s3_server.py`.

Requests are JSON lines on standard input, responses are JSON lines on standard output. The program
ends when standard input ends. The API of S3 cannot set the time of an object's last modification,
but `sync` compares these times.
"""

import functools
import hashlib
import json
import os
import signal
import sys
import threading
from datetime import datetime, timezone

responses = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

from ministack.app import main  # noqa: E402
from ministack.core.responses import set_request_account_id  # noqa: E402
from ministack.services import s3  # noqa: E402

import stepward_local_cloud  # noqa: E402

REGION = "eu-west-1"
ACCOUNT = "222222222222"


@functools.lru_cache(maxsize=64)
def content(size, fill):
    """Each block of 64 bytes is different, so that a test finds parts in a wrong order."""
    blocks = (f"{block:08x}{fill:08x}".ljust(63, ".") + "\n" for block in range((size + 63) // 64))
    return "".join(blocks).encode()[:size]


def fill_buckets(buckets):
    for state in (s3._buckets, s3._multipart_uploads, s3._completed_multipart_uploads):
        state._data.clear()
    # Large outputs go to the broker's bucket. MiniStack assigns the broker's access key to no
    # account.
    set_request_account_id("")
    s3._buckets["stepward-artifacts-111111111111"] = {
        "created": s3.now_iso(),
        "objects": {},
        "region": REGION,
    }
    set_request_account_id(ACCOUNT)
    for bucket, objects in buckets.items():
        s3._buckets[bucket] = {"created": s3.now_iso(), "objects": {}, "region": REGION}
        for spec in objects:
            headers = {
                "content-type": spec["content_type"],
                "x-amz-storage-class": spec["storage_class"],
            }
            headers |= {f"x-amz-meta-{name}": value for name, value in spec["metadata"].items()}
            record = s3._build_object_record(content(spec["size"], spec["fill"]), headers)
            modified = datetime.fromtimestamp(spec["modified"], timezone.utc)
            record["last_modified"] = modified.strftime("%Y-%m-%dT%H:%M:%S.000Z")
            s3._buckets[bucket]["objects"][spec["key"]] = record


def read_contents():
    def describe(record):
        return {
            "size": record["size"],
            "sha256": hashlib.sha256(record["body"]).hexdigest(),
            "content_type": record["content_type"],
            "storage_class": record["storage_class"],
            "metadata": dict(record["metadata"], **record["preserved_headers"]),
            "modified": record["last_modified"],
        }

    buckets = {
        name: {key: describe(record) for key, record in bucket["objects"].items()}
        for (_, name), bucket in s3._buckets._data.items()
    }
    uploads = [[upload["bucket"], upload["key"]] for upload in s3._multipart_uploads._data.values()]
    return {"buckets": buckets, "uploads": uploads}


def serve():
    for line in sys.stdin:
        request = json.loads(line)
        if "fill" in request:
            response = fill_buckets(request["fill"])
        elif "kill" in request:
            response = victim.update(request["kill"], requests=0)
        else:
            response = {**read_contents(), "requests": victim["requests"]}
        responses.write(json.dumps(response) + "\n")
    os._exit(0)


# The process that a test wants to kill at a certain request, and the number of requests so far.
victim = {"process": None, "request": 0, "has_response": False, "requests": 0}
handle_request = s3.handle_request


def kill_victim_at(request):
    if victim["process"] and victim["request"] == request:
        os.kill(victim["process"], signal.SIGKILL)
        victim["process"] = None


@functools.wraps(handle_request)
async def handle_request_and_kill(*arguments, **named):
    victim["requests"] += 1
    number = victim["requests"]
    if not victim["has_response"]:
        kill_victim_at(number)
    response = await handle_request(*arguments, **named)
    kill_victim_at(number)
    return response


# Tests use the same contents many times, so the checksums are cached.
compute_checksum = s3._compute_s3_checksum
checksums = {}


def compute_cached_checksum(algorithm, body):
    key = algorithm, hashlib.sha256(body).digest()
    if key not in checksums:
        checksums[key] = compute_checksum(algorithm, body)
    return checksums[key]


for addition in stepward_local_cloud.additions():
    addition.install()
s3.handle_request = handle_request_and_kill
s3._compute_s3_checksum = compute_cached_checksum
threading.Thread(target=serve, daemon=True).start()
main()
