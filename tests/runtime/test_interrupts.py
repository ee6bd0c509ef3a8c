"""An interrupt that somebody swallows is raised at the next look."""

import contextlib
import signal

import pytest

from dgflow.runtime import interrupts


@pytest.fixture
def remembering():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.remember()
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_was_swallowed_is_raised_once_at_the_next_look(remembering):
    interrupts.check()
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
    interrupts.check()


def test_it_is_raised_where_it_comes_too(remembering):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with contextlib.suppress(KeyboardInterrupt):
        interrupts.check()


def test_another_handler_is_left_alone():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(True))
    try:
        interrupts.remember()
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard
