"""A full disk is told from other failures by what the system itself says."""

from pathlib import Path

import pytest

from utils import disk


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_device_is_full() -> None:
    with (
        pytest.raises(OSError, match="No space left") as failure,
        Path("/dev/full").open("wb", 0) as full,
    ):
        full.write(b"x")
    assert disk.is_full(failure.value)


def test_a_missing_file_is_not() -> None:
    with pytest.raises(FileNotFoundError) as failure:
        Path("/no/such/file").read_bytes()
    assert not disk.is_full(failure.value)
