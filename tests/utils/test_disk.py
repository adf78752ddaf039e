"""A full disk is told from other failures by what the system itself says."""

import errno
import os
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


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE])
def test_what_refuses_without_being_full_is_unusable(number: int) -> None:
    error = OSError(number, os.strerror(number))
    assert disk.is_unusable(error)
    assert not disk.is_full(error)


def test_a_file_that_is_missing_or_in_the_way_is_our_own_affair() -> None:
    for number in (errno.ENOENT, errno.EEXIST, errno.ENOSPC):
        assert not disk.is_unusable(OSError(number, os.strerror(number)))
