"""Steps of a request: measured wherever its context goes, and nowhere else."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from utils.spans import Trace, begin_trace, end_trace, span, spanned, traceparent, waited

Seen = list[tuple[str, str]]


class Branch:
    """A step of an exported trace that writes down what becomes of it."""

    def __init__(self, told: list[str], path: str = "root") -> None:
        self._told = told
        self._path = path

    def begin(self, name: str, model: str) -> "Branch":
        return Branch(self._told, f"{self._path}/{name}{model and ':' + model}")

    def end(self, error: type[BaseException] | None) -> None:
        self._told.append(f"{self._path} {error.__name__ if error else 'ok'}")

    def traceparent(self) -> str:
        return self._path


@pytest.fixture
def seen() -> Seen:
    return []


def begun(seen: Seen, **asked: str) -> Trace:
    trace = Trace(lambda name, model, _: seen.append((name, model)), **asked)
    begin_trace(trace, None)
    return trace


@spanned("decode")
def decoded(text: str) -> str:
    return text.upper()


@spanned("webhook")
async def posted(text: str) -> str:
    await asyncio.sleep(0)
    return text.upper()


@spanned("fit")
def fitted() -> str | None:
    return traceparent()


def test_outside_a_request_nothing_is_measured() -> None:
    with span("decode"):
        assert decoded("a") == "A"
    assert traceparent() is None


def test_what_is_within_a_model_is_the_models(seen: Seen) -> None:
    def request() -> None:
        begun(seen)
        with span("model", model="local-isnet"):
            decoded("a")
        decoded("a")

    copy_context().run(request)
    assert seen == [("decode", "local-isnet"), ("model", "local-isnet"), ("decode", "")]


def test_tasks_and_threads_inherit_the_request_and_its_end_does_not_stop_them(seen: Seen) -> None:
    async def late(answered: asyncio.Event) -> None:
        with span("model", model="kie-recraft"):
            await answered.wait()
            await asyncio.to_thread(decoded, "a")

    async def main() -> None:
        answered = asyncio.Event()
        trace = Trace(lambda name, model, _: seen.append((name, model)))
        token = begin_trace(trace, None)
        task = asyncio.create_task(late(answered))
        assert await posted("a") == "A"
        end_trace(token)
        decoded("nobody's")
        answered.set()
        await task

    asyncio.run(main())
    assert seen == [("webhook", ""), ("decode", "kie-recraft"), ("model", "kie-recraft")]


def test_a_wait_that_ends_in_a_pool_is_measured_there(seen: Seen) -> None:
    def request() -> None:
        begun(seen)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(copy_context().run, waited, "pool_wait", 0.0).result()

    copy_context().run(request)
    assert seen == [("pool_wait", "")]


def test_seconds_add_up_for_the_header_but_for_what_is_inside_a_model(seen: Seen) -> None:
    def request() -> Trace:
        trace = begun(seen)
        decoded("a")
        first = trace.seconds["decode"]
        decoded("a")
        assert trace.seconds["decode"] > first
        with span("model", model="local-isnet"), span("inference"):
            pass
        return trace

    assert set(copy_context().run(request).seconds) == {"decode", "local-isnet"}


def test_an_exported_trace_has_the_steps_within_one_another_and_their_errors() -> None:
    told: list[str] = []

    def request() -> None:
        begin_trace(Trace(lambda *_: None), Branch(told))
        with span("model", model="m"):
            assert fitted() == "root/model:m/fit:m"
            with pytest.raises(ZeroDivisionError), span("remote"):
                _ = 1 / 0
        decoded("a")

    copy_context().run(request)
    assert told == [
        "root/model:m/fit:m ok",
        "root/model:m/remote:m ZeroDivisionError",
        "root/model:m ok",
        "root/decode ok",
    ]


def test_without_a_collector_the_callers_own_trace_is_passed_on(seen: Seen) -> None:
    def request() -> str | None:
        begun(seen, traceparent="00-a-b-01")
        return traceparent()

    assert copy_context().run(request) == "00-a-b-01"
