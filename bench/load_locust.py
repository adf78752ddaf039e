"""The fifty clients as locust runs them: `locust -f bench/load_locust.py --headless`.

Runs in the load's own environment, started by bench.load, which names the plan's file. Each class
is a kind of client: how many of them there are of fifty, what they do, how long they pause.
"""

from collections.abc import Callable
from typing import Any

from locust import User, between, events

from bench import load_clients as doing
from bench.load_clients import Client, Plan, next_number
from bench.load_wire import Diary, Seen

_plan = Plan.read()
_HTTP_ERRORS = 400


def _tell_locust(seen: Seen) -> None:
    status = seen.status if isinstance(seen.status, int) else 0
    failed = seen.fault or (f"{status} {seen.code}" if status >= _HTTP_ERRORS else "")
    events.request.fire(
        request_type=seen.route.partition(" ")[0],
        name=seen.route,
        response_time=seen.seconds * 1e3,
        response_length=seen.bytes,
        exception=RuntimeError(failed) if failed else None,
        context={},
    )


_diary = Diary(_plan.diary, told=_tell_locust)


class Kind(User):
    """What all kinds share; `weight` is how many of fifty clients are of the kind."""

    abstract = True

    def __init__(self, environment: Any) -> None:  # noqa: ANN401  # locust is not in .venv
        super().__init__(environment)
        kind = type(self).__name__.lower()
        self.client = Client(_plan, _diary, next_number(kind), kind)


def _does(visit: Callable[[Client], None]) -> Callable[[Kind], None]:
    """A visit as a task of locust's."""

    def task(user: Kind) -> None:
        visit(user.client)

    return task


class Customer(Kind):
    weight = 22
    wait_time = between(2, 12)
    tasks = ((_does(doing.order), 8), (_does(doing.read_again), 1))


class PaidOnce(Kind):
    weight = 6
    wait_time = between(3, 12)
    tasks = (_does(doing.paid_once),)


class Browser(Kind):
    weight = 8
    wait_time = between(3, 15)
    tasks = (_does(doing.browse),)


class Printer(Kind):
    weight = 6
    wait_time = between(4, 15)
    tasks = ((_does(doing.enlarge), 3), (_does(doing.process), 2), (_does(doing.analyze), 2))


class PlugIn(Kind):
    weight = 3
    wait_time = between(4, 15)
    tasks = (_does(doing.removebg),)


class Operator(Kind):
    weight = 2
    wait_time = between(1, 5)
    tasks = (_does(doing.operate),)


class Blunderer(Kind):
    weight = 3
    wait_time = between(2, 8)
    tasks = (_does(doing.blunder),)
