"""The table of what happened, and the doors: the rest of scripts.chaos is run by hand."""

import socket
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from scripts.chaos.circumstances import CIRCUMSTANCES
from scripts.chaos.doors import Door, Loop, Mood
from scripts.chaos.judge import Money
from scripts.chaos.table import BEGIN, END, Row, write
from scripts.chaos.traffic import Seen


def row(name: str, *broken: str, well_s: float | None = 3.0) -> Row:
    seen = Seen()
    seen.count("shot", "200")
    return Row(name, "it", seen, well_s, Counter(), Money(Decimal(1), Decimal(1), 0), list(broken))


def test_a_row_takes_the_place_of_its_own_and_they_stand_in_order(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n\n{END}\nafter\n")
    for each in (row("first"), row("second"), row("first", "a shot was lost", well_s=None)):
        write(each, ["second", "first"], page)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    second, first = (line for line in lines if "<!-- first" in line or "<!-- second" in line)
    assert "**a shot was lost**" in first
    assert "| not; /health" in first
    assert "nothing lost" in second
    assert first.count("|") == second.count("|") == 6


def test_every_circumstance_has_a_name_of_its_own() -> None:
    names = [each.name for each in CIRCUMSTANCES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("mood", list(Mood))
def test_a_door_does_as_it_is_told(mood: Mood) -> None:
    with Loop() as loop, socket.create_server(("127.0.0.1", 0)) as target:
        door = Door(loop, target.getsockname()[1])
        door.be(mood)
        try:
            assert (
                _knock(door.port, target)
                == {
                    Mood.PASS: "answered",
                    Mood.REFUSE: "refused",
                    Mood.HANG: "silence",
                    Mood.RESET: "reset",
                    Mood.GARBAGE: "garbage",
                }[mood]
            )
        finally:
            door.close()


def _knock(port: int, target: socket.socket) -> str:
    """What somebody at the door meets, who says hello and is answered with a hundred bytes."""
    answer = b"a" * 100
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.3) as link:
            link.sendall(b"hello")
            target.settimeout(0.2)
            try:
                inner, _ = target.accept()
            except TimeoutError:
                pass
            else:
                with inner:
                    inner.recv(5)
                    inner.sendall(answer)
            said = link.recv(1000)
            while said and len(said) < len(answer) and (more := link.recv(1000)):
                said += more
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "silence"
    return "answered" if said == answer else "garbage"
