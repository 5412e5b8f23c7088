"""Compares the requests that unit tests recorded with AWS's service models.

`.ci/run` sets STEPWARD_RECORDED_REQUESTS for `cargo test` and then runs this program with the same
folder. It fails if a request violates the model of its operation: a missing or unknown member, a
wrong type, a pattern, a length, a range or an enum. It also fails if a crate recorded no request,
and if an exception has no effect.

    python tests/aws-models/check.py FOLDER
"""

import json
import sys
from pathlib import Path

import regex
from botocore.validate import ParamValidator, ValidationErrors
from exceptions import EXCEPTIONS
from request_parser import UnknownContent, parse

FUNCTIONS = Path(__file__).parents[2] / "functions"


class Report(ValidationErrors):
    """botocore's report, with plain messages for the rules that botocore does not check."""

    def _format_error(self, error):
        kind, name, additional = error
        if kind == "violates the model":
            return f"{self._get_name(name)}: {additional['message']}"
        return super()._format_error(error)


class Validator(ParamValidator):
    """botocore's validator, which checks members, types and minimums, and what it does not check:
    maximums, patterns and enums. Unlike botocore it checks the items of every list."""

    def _shape_has_constraints(self, shape):
        return True

    def validate(self, params, shape):
        errors = Report()
        self._validate(params, shape, errors, name="")
        return errors

    def _validate(self, params, shape, errors, name):
        super()._validate(params, shape, errors, name)
        for message in violations(shape, params):
            errors.report(name, "violates the model", message=message)


def violations(shape, value):
    """Returns the violations of the rules that botocore does not check."""
    kind, rules = shape.type_name, shape.metadata
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    size = None
    if kind in ("integer", "long", "float", "double") and is_number:
        size = value
    elif isinstance(value, (list, dict, str, bytes)) and kind != "structure":
        size = len(value)
    if size is not None and size > rules.get("max", size):
        yield f"{size} is more than the maximum of {rules['max']}: {shorten(value)}"
    if kind in ("map", "blob") and size is not None and size < rules.get("min", size):
        yield f"{size} is less than the minimum of {rules['min']}: {shorten(value)}"
    if kind == "string" and isinstance(value, str):
        if "enum" in rules and value not in rules["enum"]:
            yield f"{shorten(value)} is not one of {', '.join(rules['enum'])}"
        if "pattern" in rules and not matches(rules["pattern"], value):
            yield f"{shorten(value)} does not match {rules['pattern']}"


def matches(pattern, value):
    """Returns whether a value matches one of AWS's patterns, which are written for Java. Services
    match the whole value."""
    # Java reads two surrogates as one character.
    pattern = pattern.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")
    # In Java, `\w` and `\d` are ASCII, but `\p{L}` is not.
    flags = 0 if r"\p{" in pattern else regex.ASCII
    return regex.fullmatch(pattern, value, flags) is not None


def shorten(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def problems(request):
    """Returns one message for each violation of a recorded request."""
    try:
        operation, params = parse(request)
    except UnknownContent as error:
        return [str(error)]
    if operation.input_shape is None:
        return []
    report = Validator().validate(params, operation.input_shape)
    return report.generate_report().splitlines() if report.has_errors() else []


def check(folder, packages):
    """Returns the number of requests, and one message for each fault."""
    count, faults, used = 0, {}, set()
    for package in packages:
        files = sorted((folder / package).glob("*.json"))
        if not files:
            faults[f"{package}: the unit tests recorded no request in {folder}"] = None
        for file in files:
            request = json.loads(file.read_text())
            count += 1
            for problem in problems(request):
                name = f"{request['service']}:{request['operation']}"
                exception = next((item for item in EXCEPTIONS if item.covers(name, problem)), None)
                if exception:
                    used.add(exception)
                else:
                    faults.setdefault(f"{package}: {name}: {problem}", file)
    messages = [f"{fault}\n  {file}" if file else fault for fault, file in faults.items()]
    for exception in EXCEPTIONS:
        if exception not in used:
            messages.append(f"no request needs this exception; remove it: {exception}")
    return count, messages


def main(folder):
    names = sorted(path.parent.name for path in FUNCTIONS.glob("*/Cargo.toml"))
    packages = ["stepward"] + [f"stepward_{name}" for name in names]
    count, messages = check(Path(folder), packages)
    for message in messages:
        print(message)
    if messages:
        sys.exit(
            f"{len(messages)} faults in {count} requests: correct the step or the test, or add "
            "the exception with its reason to tests/aws-models/exceptions.py"
        )
    print(f"{count} requests of {len(packages)} crates conform to AWS's service models")


if __name__ == "__main__":
    main(sys.argv[1])
