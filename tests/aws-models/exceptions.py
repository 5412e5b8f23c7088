"""Requests that may violate AWS's service models, each with the reason."""

from typing import NamedTuple


class RequestException(NamedTuple):
    """A kind of violation that is right."""

    operation: str
    """The service ID and the operation, such as `EC2:StartInstances`."""
    problem: str
    """The beginning of the violation's message."""
    reason: str

    def covers(self, operation, problem):
        return operation == self.operation and problem.startswith(self.problem)


EXCEPTIONS = ()
