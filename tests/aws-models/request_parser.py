"""Parses recorded HTTP requests into the parameters of botocore's service models.

The protocols are described in https://smithy.io/2.0/aws/protocols/. The parsers fail on content
that the model does not describe. moto's `moto.core.parse` ignores such content, and moto needs
50 MB and 20 more packages.
"""

import base64
import binascii
import functools
import gzip
import json
import re
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree

import botocore
import botocore.session

SERVICE_MODELS = "data/*/*/service-2.json.gz"
SERVICE_ID = re.compile(r'"serviceId"\s*:\s*"([^"]+)"')

# Query parameters and headers of REST requests that SDKs add and no model describes.
UNMODELED_QUERY = {
    "x-id",
    # a presigned URL
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
}
UNMODELED_HEADERS = {"x-amz-decoded-content-length", "x-amz-te", "x-amz-trailer"}

ACCESS_POINT_HOST = re.compile(r"(.+)-(\d{12})\.s3-accesspoint\.([^.]+)\.amazonaws\.com$")

XSI_TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"


class UnknownContent(Exception):
    """A request contains something that the service model does not describe."""


@functools.cache
def service_names():
    """Returns botocore's names of the services by their IDs, without blanks, as the Rust SDK writes
    some of them."""
    names = {}
    for path in Path(botocore.__file__).parent.glob(SERVICE_MODELS):
        with gzip.open(path, "rt") as model:
            # The metadata of a model, with the ID, comes first. Some models have several MB.
            found = SERVICE_ID.search(model.read(4096))
        if found:
            names[found[1].replace(" ", "")] = path.parts[-3]
    return names


@functools.cache
def service_model(service):
    """Returns botocore's model of a service, by the Rust SDK's service ID."""
    name = service_names().get(service.replace(" ", ""))
    if name is None:
        raise UnknownContent(f'botocore has no service with the ID "{service}"')
    return botocore.session.get_session().get_service_model(name)


def parse(request):
    """Returns the operation's model and the parameters of a recorded request."""
    model = service_model(request["service"])
    operation = model.operation_model(request["operation"])
    shape = operation.input_shape
    payload = shape and shape.members.get(shape.serialization.get("payload"))
    if request["body"] is None and not (payload and payload.type_name == "blob"):
        raise UnknownContent("the body was not recorded, because it is a stream or too large")
    return operation, PARSERS[model.resolved_protocol](request, operation)


def body_bytes(request):
    return (request["body"] or "").encode()


def scalar(shape, text):
    """Converts the text of a scalar. Text of a wrong type stays text, which validation refuses."""
    kind = shape.type_name
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    try:
        if kind in ("integer", "long"):
            return int(text)
        if kind in ("float", "double"):
            return float(text)
        if kind == "blob":
            return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise UnknownContent(f"{text!r} is not a valid {kind} ({shape.name})") from None
    return text


# Query and EC2


def parse_query(request, operation):
    is_ec2 = operation.service_model.resolved_protocol == "ec2"
    pairs = parse_qsl(request["body"], keep_blank_values=True, strict_parsing=True)
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise UnknownContent("a parameter is sent twice")
    header = (fields.pop("Action"), fields.pop("Version"))
    if header != (operation.name, operation.service_model.api_version):
        raise UnknownContent(f"{header} is not {operation.name} of this model")
    params = query_value(operation.input_shape, fields, "", is_ec2) or {}
    if fields:
        raise UnknownContent(f"the model has no {', '.join(sorted(fields))}")
    return params


def query_name(shape, default, is_ec2):
    if is_ec2 and "queryName" in shape.serialization:
        return shape.serialization["queryName"]
    name = shape.serialization.get("name", default)
    return name[0].upper() + name[1:] if is_ec2 else name


def has_field(fields, prefix):
    return any(name == prefix or name.startswith(f"{prefix}.") for name in fields)


def query_value(shape, fields, prefix, is_ec2):
    """Takes the fields of a value out of `fields`. Returns `None` without fields."""
    if prefix and not has_field(fields, prefix):
        return None
    if shape.type_name == "structure":
        params = {}
        for name, member in shape.members.items():
            field = query_name(member, name, is_ec2)
            value = query_value(member, fields, f"{prefix}.{field}" if prefix else field, is_ec2)
            if value is not None:
                params[name] = value
        return params
    if shape.type_name == "list":
        if fields.get(prefix) == "":
            del fields[prefix]
            return []
        if is_ec2 or shape.serialization.get("flattened"):
            items = prefix
        else:
            items = f"{prefix}.{query_name(shape.member, 'member', False)}"
        values = []
        while has_field(fields, f"{items}.{len(values) + 1}"):
            values.append(query_value(shape.member, fields, f"{items}.{len(values) + 1}", is_ec2))
        return values
    if shape.type_name == "map":
        entries = prefix if shape.serialization.get("flattened") else f"{prefix}.entry"
        params = {}
        while has_field(fields, f"{entries}.{len(params) + 1}"):
            entry = f"{entries}.{len(params) + 1}"
            key = query_name(shape.key, "key", is_ec2)
            value = query_name(shape.value, "value", is_ec2)
            params[fields.pop(f"{entry}.{key}")] = query_value(
                shape.value, fields, f"{entry}.{value}", is_ec2
            )
        return params
    return scalar(shape, fields.pop(prefix)) if prefix in fields else None


# JSON


def parse_json(request, operation):
    target = f"{operation.service_model.metadata['targetPrefix']}.{operation.name}"
    if request["headers"].get("x-amz-target") != target:
        raise UnknownContent(f"the header x-amz-target is not {target}")
    return json_value(operation.input_shape, json.loads(body_bytes(request) or b"{}"))


def json_value(shape, value):
    """Renames the members of a JSON value. Values of a wrong type stay, and validation refuses
    them."""
    kind = shape.type_name
    if kind == "structure" and isinstance(value, dict) and not shape.is_document_type:
        members = {
            member.serialization.get("name", name): (name, member)
            for name, member in shape.members.items()
        }
        params = {}
        for field, item in value.items():
            if field in members:
                name, member = members[field]
                params[name] = json_value(member, item)
            else:
                params[field] = item
        return params
    if kind == "list" and isinstance(value, list):
        return [json_value(shape.member, item) for item in value]
    if kind == "map" and isinstance(value, dict):
        return {key: json_value(shape.value, item) for key, item in value.items()}
    if kind == "blob" and isinstance(value, str):
        return scalar(shape, value)
    return value


# REST


def parse_rest(request, operation):
    is_xml = operation.service_model.resolved_protocol == "rest-xml"
    uri = urlsplit(request["uri"])
    path = s3_path(uri) if operation.service_model.service_name == "s3" else uri.path
    path_template, _, query_template = operation.http["requestUri"].partition("?")
    if request["method"] != operation.http["method"]:
        raise UnknownContent(f"the method is {request['method']}")

    labels = path_labels(path_template, path)
    query = dict(parse_qsl(uri.query, keep_blank_values=True))
    for name, value in parse_qsl(query_template, keep_blank_values=True):
        if query.pop(name, None) != value:
            raise UnknownContent(f"the query of the URI has no {name}={value}")
    headers = dict(request["headers"])
    shape = operation.input_shape
    payload = shape.serialization.get("payload")
    params, body_members = {}, {}
    for name, member in shape.members.items():
        field = member.serialization.get("name", name)
        location = member.serialization.get("location")
        value = None
        if location == "uri":
            value = labels.pop(field, None)
        elif location == "querystring":
            value = query.pop(field, None)
        elif location == "header":
            value = headers.pop(field.lower(), None)
        elif location == "headers":
            prefix = field.lower()
            found = {key: headers.pop(key) for key in list(headers) if key.startswith(prefix)}
            if found:
                params[name] = {key[len(prefix) :]: text for key, text in found.items()}
        elif name != payload:
            body_members[name] = member
        if value is not None:
            params[name] = scalar(member, value)
    unknown = [f"query {name}" for name in query if name not in UNMODELED_QUERY]
    unknown += [f"label {name}" for name in labels]
    unknown += [
        f"header {name}"
        for name in headers
        if name.startswith("x-amz-")
        and name not in UNMODELED_HEADERS
        and not (name.startswith("x-amz-checksum-") and operation.http_checksum)
    ]
    if unknown:
        raise UnknownContent(f"the model has no {', '.join(unknown)}")

    body = body_bytes(request)
    if payload:
        member = shape.members[payload]
        if member.type_name == "blob":
            params[payload] = body
        elif member.type_name == "string":
            params[payload] = body.decode()
        elif body:
            params[payload] = (
                xml_value(member, ElementTree.fromstring(body))
                if is_xml
                else json_value(member, json.loads(body))
            )
    elif body and is_xml:
        raise UnknownContent("the operation has no body")
    elif body:
        params |= json_body(body_members, json.loads(body))
    return params


def json_body(members, body):
    """Returns the parameters of a body whose members are the operation's."""
    by_field = {
        member.serialization.get("name", name): (name, member) for name, member in members.items()
    }
    params = {}
    for field, value in body.items():
        name, member = by_field.get(field, (field, None))
        params[name] = json_value(member, value) if member else value
    return params


def s3_path(uri):
    """Returns the path with the bucket or the ARN of the access point, which are in the host name
    of most requests."""
    point = ACCESS_POINT_HOST.match(uri.netloc)
    if point:
        name, account, region = point.groups()
        arn = f"arn:aws:s3:{region}:{account}:accesspoint/{name}"
        return f"/{quote(arn, safe='')}{uri.path}"
    bucket, found, _ = uri.netloc.partition(".s3.")
    return f"/{bucket}{uri.path}" if found else uri.path


def path_labels(template, path):
    """Returns the values of a template's labels, as in `/{Bucket}/{Key+}`."""
    pattern = ""
    for part in re.split(r"(\{[^}]+\})", template):
        label = re.fullmatch(r"\{(\w+)(\+?)\}", part)
        if label:
            pattern += f"(?P<{label[1]}>{'.*' if label[2] else '[^/]+'})"
        else:
            pattern += re.escape(part)
    # S3's SDK ends the path of a bucket with a slash.
    found = re.fullmatch(f"{pattern}/?", path)
    if not found:
        raise UnknownContent(f"the path {path} is not {template}")
    return {name: unquote(value) for name, value in found.groupdict().items()}


def xml_value(shape, node):
    if shape.type_name == "structure":
        by_field = {
            member.serialization.get("name", name): (name, member)
            for name, member in shape.members.items()
        }
        params = {}
        nodes = {}
        for child in node:
            nodes.setdefault(child.tag.rpartition("}")[2], []).append(child)
        if XSI_TYPE in node.attrib and "xsi:type" in by_field:
            params[by_field["xsi:type"][0]] = node.attrib[XSI_TYPE]
        for field, children in nodes.items():
            name, member = by_field.get(field, (field, None))
            if member is None:
                params[name] = children[0].text
            elif member.serialization.get("flattened"):
                params[name] = [xml_value(member.member, child) for child in children]
            elif len(children) == 1:
                params[name] = xml_value(member, children[0])
            else:
                raise UnknownContent(f"the element {field} is sent {len(children)} times")
        return params
    if shape.type_name == "list":
        return [xml_value(shape.member, child) for child in node]
    if shape.type_name == "map":
        raise UnknownContent("maps in XML are not supported; add them to xml_value")
    return scalar(shape, node.text or "")


PARSERS = {
    "ec2": parse_query,
    "json": parse_json,
    "query": parse_query,
    "rest-json": parse_rest,
    "rest-xml": parse_rest,
}
