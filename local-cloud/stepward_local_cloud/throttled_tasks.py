"""The name of the error when Lambda throttles the call of a Task.

https://docs.aws.amazon.com/step-functions/latest/dg/sfn-best-practices.html#bp-lambda-serviceexception
"""

import json

from ministack.services import stepfunctions as sfn

call_lambda = sfn._call_lambda


def call_lambda_and_name_throttling(function, event):
    try:
        return call_lambda(function, event)
    except sfn._ExecutionError as error:
        if error.error != "Lambda.Unknown":
            raise
        try:
            code = json.loads(error.cause).get("__type")
        except (AttributeError, TypeError, ValueError):
            raise error from None
        if code != "TooManyRequestsException":
            raise
        raise sfn._ExecutionError(f"Lambda.{code}", error.cause) from None


def install():
    sfn._call_lambda = call_lambda_and_name_throttling
