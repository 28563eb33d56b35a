"""Parsing of `Retry-After`."""

import time

import pytest

from dataset_builders import transport


@pytest.mark.parametrize("zone", ["-0000", "GMT", "+0200"])
def test_a_date_to_wait_for_is_in_its_own_zone(monkeypatch, zone):
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        hour = "02" if zone == "+0200" else "00"
        monkeypatch.setattr(transport.time, "time", lambda: 1_767_225_600.0)  # 2026-01-01 UTC
        text = f"Thu, 01 Jan 2026 {hour}:01:00 {zone}"
        assert transport.retry_after({"retry-after": text}) == 60.0
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", 3.0),
        (" 0.5 ", 0.5),
        ("Thu, 01 Jan 1970 00:16:50 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:16:50 -0000", 10.0),
        ("Thu, 01 Jan 1970 00:16:30 GMT", 0.0),
        ("9e9", transport.MAX_RETRY_AFTER_S),
        ("nan", 0.0),
        ("-5", 0.0),
        ("", None),
        ("soon", None),
        ("Thu, 99 Jan 2026 00:00:00 GMT", None),
    ],
)
def test_a_time_to_wait_for_is_seconds_or_a_date(monkeypatch, value, expected):
    monkeypatch.setattr(transport.time, "time", lambda: 1000.0)
    assert transport.retry_after({"retry-after": value}) == expected
