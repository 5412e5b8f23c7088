from buckets import create_bucket
from state_machines import create_role

from stepward_local_cloud.s3_initiators import with_initiators

OPERATOR = {"Effect": "Allow", "Principal": {"AWS": "111111111111"}, "Action": "sts:AssumeRole"}
ALL_OF_S3 = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


def initiators(cloud):
    """Starts two uploads, as the account's root and as a role session. Returns their initiators."""
    bucket, role = create_bucket(cloud), create_role(cloud, OPERATOR, ALL_OF_S3)
    session = cloud.client("sts").assume_role(RoleArn=role, RoleSessionName="session")
    cloud.client("s3").create_multipart_upload(Bucket=bucket, Key="a")
    cloud.client("s3", session["Credentials"]).create_multipart_upload(Bucket=bucket, Key="b")
    uploads = cloud.client("s3").list_multipart_uploads(Bucket=bucket)["Uploads"]
    return session["AssumedRoleUser"]["Arn"], [upload["Initiator"]["ID"] for upload in uploads]


def test_ministack_lacks_initiators_of_uploads(ministack):
    _, listed = initiators(ministack)
    assert listed == ["111111111111", "111111111111"]


def test_an_upload_names_the_role_session_that_began_it(local_cloud):
    session, listed = initiators(local_cloud)
    assert listed == ["111111111111", session]


def test_only_the_initiator_of_each_upload_is_replaced():
    upload = (
        "<Upload><UploadId>1</UploadId><Initiator><ID>x</ID></Initiator>"
        "<Owner><ID>x</ID></Owner></Upload>"
    )
    listing = f"<ID>x</ID>{upload}{upload.replace('>1<', '>2<')}"
    named = with_initiators(listing, {"1": "a&b", "2": "c"})
    assert (
        "<UploadId>1</UploadId><Initiator><ID>a&amp;b</ID></Initiator><Owner><ID>x</ID></Owner>"
        in named
    )
    assert "<UploadId>2</UploadId><Initiator><ID>c</ID></Initiator>" in named
    assert named.startswith("<ID>x</ID>")
