import pytest

from stepward_local_cloud.ssm_requests import Refused
from stepward_local_cloud.ssm_responses import (
    combined_output,
    iso_duration,
    iso_time,
    page,
    truncate,
)


def test_short_output_is_shown_whole():
    assert combined_output("out", "") == "out"
    assert combined_output("out\n", "err") == "out\n\n----------ERROR-------\nerr"


@pytest.mark.parametrize(
    ("output", "errors"),
    [(9000, 0), (9000, 9000), (9000, 10), (10, 9000), (1300, 1300)],
)
def test_long_output_takes_2500_characters_and_says_so(output, errors):
    shown = combined_output("o" * output, "e" * errors)
    assert len(shown) <= 2500
    assert "truncated--" in shown


def test_the_shorter_stream_is_shown_whole():
    assert combined_output("o" * 9000, "the error").endswith("the error")
    assert combined_output("the output", "e" * 9000).startswith("the output\n")


def test_a_stream_that_is_too_long_ends_with_a_mark():
    assert truncate("abc", 10) == "abc"
    assert truncate("x" * 30, 30) == "x" * 10 + "--output truncated--"


def test_times_are_in_the_form_of_iso_8601():
    assert iso_time(0) == "1970-01-01T00:00:00.000Z"
    assert iso_time(None) == ""
    assert iso_duration(1.5) == "PT1.500S"
    assert iso_duration(3725.25) == "PT1H2M5.250S"


def pages(data, **limits):
    return page("Numbers", list(range(7)), str, data, most=50, **limits)


def test_pages_follow_each_other_until_the_end():
    first = pages({"MaxResults": 5})
    second = pages({"MaxResults": 5, "NextToken": first["NextToken"]})
    assert first["Numbers"] + second["Numbers"] == list("0123456")
    assert "NextToken" not in second


@pytest.mark.parametrize(
    "data", [{"MaxResults": 51}, {"MaxResults": 4}, {"NextToken": "not base64"}]
)
def test_pages_outside_of_the_limits_are_refused(data):
    with pytest.raises(Refused):
        pages(data, least=5)
