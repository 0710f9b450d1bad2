"""What may be asked of a log, and how a wrong question is refused."""

from __future__ import annotations

import pytest

from exeio_core.errors import Invalid
from exeio_core.logfile import LogQuery


def test_defaults():
    query = LogQuery.from_query({"follow": "true"})
    assert query == LogQuery(1, 50, "desc", None, None, None, None)
    assert not query.filters
    with pytest.raises(AttributeError):
        query.page = 2


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("page", "7", 7),
        ("page", "007", 7),
        ("page_size", "1", 1),
        ("page_size", "10000", 10_000),
        ("order", "ASC", "asc"),
        ("stream", "STDOUT", "stdout"),
        ("stream", "system", "system"),
        ("contains", "a b", "a b"),
        ("contains", "", None),
        ("since", "2025-07-15 10:30:45", "2025-07-15 10:30:45"),
        ("since", "2025-07-15T10:30:45Z", "2025-07-15 10:30:45"),
        ("since", "2025-07-15T10:30:45.999z", "2025-07-15 10:30:45"),
        ("since", "2025-07-15T00:30:45+02:00", "2025-07-14 22:30:45"),
        ("since", "2025-07-15T10:30:45-0530", "2025-07-15 16:00:45"),
        ("since", "2025-07-15T10:30+02", "2025-07-15 08:30:00"),
        ("since", "2025-07-15", "2025-07-15 00:00:00"),
        ("until", "2025-07-15", "2025-07-15 23:59:59"),
        ("until", "2025-07-15 10:30", "2025-07-15 10:30:59"),
        ("until", "2024-02-29 10:30:00", "2024-02-29 10:30:00"),
        ("since", "0001-01-01", "0001-01-01 00:00:00"),
    ],
)
def test_right_values(name, text, value):
    assert getattr(LogQuery.from_query({name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("page", text) for text in ("0", "-1", "", "1.5", "x", "١", "9" * 5000, " 1")),
        *(("page_size", text) for text in ("0", "10001", "ten")),
        ("order", "up"),
        ("stream", "out"),
        ("stream", ""),
        *(
            (name, text)
            for name in ("since", "until")
            for text in (
                "",
                "yesterday",
                "2025-13-01",
                "2025-00-01",
                "2025-02-29",
                "2025-04-31",
                "2025-01-00",
                "0000-01-01",
                "2025-07-15 24:00:00",
                "2025-07-15 10:60:00",
                "2025-07-15 10:30:60",
                "2025-07-15 10:30:45+25:00",
                "2025-07-15 10:30:45+01:60",
                "9999-12-31T23:59:59-01:00",
                "٢٠٢٥-07-15",
                "1752575445",
            )
        ),
    ],
)
def test_wrong_values_name_the_parameter(name, text):
    with pytest.raises(Invalid) as refused:
        LogQuery.from_query({name: text})
    assert refused.value.field == name
    assert refused.value.message.startswith(f"{name} must be ")
