"""Calls of two threads, one at a time and in order."""

from __future__ import annotations

import threading

from tpu_tlm.training.in_turn import InTurn


def test_calls_given_while_another_thread_is_busy_are_made_after_it() -> None:
    calls, made = InTurn(), []
    began, end = threading.Event(), threading.Event()

    def long() -> None:
        began.set()
        assert end.wait(60)
        made.append("long")

    thread = threading.Thread(target=lambda: calls.now(long))
    thread.start()
    assert began.wait(60)
    calls.soon(lambda: made.append("second"))
    assert made == []  # and it did not wait
    end.set()
    thread.join()
    calls.now(lambda: made.append("third"))
    assert made == ["long", "second", "third"]


def test_many_calls_of_two_threads_never_overlap() -> None:
    calls, inside, most, made = InTurn(), [0], [0], []

    def call(number: int) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        made.append(number)
        inside[0] -= 1

    def other() -> None:
        for _ in range(200):
            calls.now(lambda: call(-1))

    thread = threading.Thread(target=other)
    thread.start()
    for number in range(2000):
        calls.soon(lambda number=number: call(number))
    thread.join()
    calls.now(lambda: None)
    assert most == [1]
    assert [n for n in made if n >= 0] == list(range(2000)) and made.count(-1) == 200


def test_an_error_leaves_the_calls_after_it() -> None:
    calls, made = InTurn(), []

    def fail() -> None:
        raise ZeroDivisionError

    try:
        calls.soon(fail)
    except ZeroDivisionError:
        made.append("raised")
    calls.soon(lambda: made.append("next"))
    assert made == ["raised", "next"]
