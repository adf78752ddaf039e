"""The watchdog with real processes: stuck ones end with stacks and a line, all others live on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import ROOT
from utils.watchdog import STUCK_STATUS, Silence

START = """
import asyncio, logging, re, sys, threading, time
from utils.logs import configure
from utils.watchdog import watching

configure("INFO")

async def busy(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(20000):
            pass
        await asyncio.sleep(0)

def never():
    held = threading.Lock()
    held.acquire()
    held.acquire()

async def main():
    with watching(asyncio.get_running_loop(), limit_s=LIMIT):
        print("watched", flush=True)
        WORK
    print("ended well", flush=True)

asyncio.run(main())
"""


@contextmanager
def watched(work: str, *, limit_s: float) -> Iterator["subprocess.Popen[str]"]:
    """A process whose watched loop does `work`."""
    code = START.replace("LIMIT", str(limit_s)).replace("WORK", work)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watched\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "stuck", ["never()", "while True: pass", "time.sleep(600)"], ids=["lock", "loop", "sleep"]
)
def test_a_loop_that_is_stuck_ends_its_process_with_stacks_and_a_line(stuck: str) -> None:
    with watched(stuck, limit_s=0.3) as process:
        said, stacks = process.communicate(timeout=60)
    assert process.returncode == STUCK_STATUS
    line = json.loads(said)
    assert (line["event"], line["level"]) == ("loop_stuck", "CRITICAL")
    assert line["exit_status"] == STUCK_STATUS
    assert "in main" in stacks
    assert "in _watch" in stacks


def test_c_code_that_keeps_the_interpreter_ends_its_process_as_well() -> None:
    catastrophe = 're.match("(a+)+b", "a" * 64)'
    with watched(catastrophe, limit_s=0.2) as process:
        said, stacks = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGPROF
    assert said == ""
    assert "in main" in stacks


def test_nobody_who_reads_the_log_keeps_the_end_from_coming() -> None:
    """The loop is stuck in writing to a pipe that is full, and so is the log."""
    with watched('sys.stdout.write("x" * 10**6)', limit_s=0.2) as process:
        assert process.wait(60) == STUCK_STATUS


def test_a_busy_loop_of_short_tasks_is_left_alone() -> None:
    with watched("await busy(1.5)", limit_s=0.5) as process:
        said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("ended well\n", 0)


def test_a_process_that_was_stopped_is_left_alone() -> None:
    with watched("await asyncio.sleep(1)", limit_s=0.4) as process:
        for _ in range(2):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.8)
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.05)
        said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("ended well\n", 0)


def test_nothing_is_watched_where_no_limit_is_set() -> None:
    with watched("time.sleep(0.3)", limit_s=0) as process:
        said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == ("ended well\n", 0)


def test_silence_counts_in_the_listeners_own_time() -> None:
    silence = Silence(pause_s=1, now_s=100)
    for now_s in (101, 102, 103):
        silence.listen(now_s, heard=False)
    assert silence.seconds == 3
    silence.listen(5000, heard=False)  # the machine was asleep
    assert silence.seconds == 5
    silence.listen(5001, heard=True)
    assert silence.seconds == 0
