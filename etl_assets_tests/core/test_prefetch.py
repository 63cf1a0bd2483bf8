"""What is made one ahead: in order, whole, no further than that, and with its errors in their place."""

import threading
from collections.abc import Iterator

import pytest

from etl_assets.core.prefetch import prefetched


def test_elements_come_in_order_also_those_that_are_false() -> None:
    assert list(prefetched(iter([0, None, 2, ""]))) == [0, None, 2, ""]
    assert list(prefetched(iter(()))) == []


def test_an_element_is_made_while_the_one_before_is_used_and_none_beyond_it() -> None:
    made = []
    second = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    used = prefetched(numbers())
    assert next(used) == 0
    assert second.wait(10)
    used.close()  # type: ignore[attr-defined]
    assert made == [0, 1]


def test_an_error_is_raised_after_the_elements_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    used = prefetched(failing())
    assert next(used) == 1
    with pytest.raises(ValueError, match="the second"):
        next(used)
