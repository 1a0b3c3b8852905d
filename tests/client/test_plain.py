"""What cannot be done is one plain sentence that names what is at fault."""

from __future__ import annotations

import errno
import os

import pytest
import typer

from fl_client import plain
from fl_client.config import ConfigError

NOBODY = 65534


def said(error: Exception, capsys) -> str:
    with pytest.raises(typer.Exit) as ended, plain.errors():
        raise error
    assert ended.value.exit_code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConfigError("no such study"), "no such study"),
        (ImportError(name="torch"), "this needs torch: pip install 'bhasha-fl[silo]'"),
        (OSError(errno.ENOENT, "No such file or directory", "text"), "text: No such file or directory"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk: No space left on device"),
        (OSError(errno.EIO, "Input/output error"), "the disk: Input/output error"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk: Disk quota exceeded"),
        (OSError(errno.EMFILE, "Too many open files"), "the operating system: Too many open files"),
        (OSError("no model of that name"), "no model of that name"),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_sentence(error, words, capsys):
    assert said(error, capsys) == f"error: {words}\n"


@pytest.fixture
def as_another_user():
    """Be a user who may not signal the first process of the machine."""
    root = os.geteuid() == 0
    if root:
        os.setresuid(NOBODY, NOBODY, 0)
    yield
    if root:
        os.setresuid(0, 0, 0)


def test_a_process_of_another_user_is_no_fault_of_the_disk(as_another_user, capsys):
    with pytest.raises(typer.Exit), plain.errors():
        os.kill(1, 0)
    assert capsys.readouterr().err == "error: the operating system: Operation not permitted\n"


def test_what_goes_well_says_nothing(capsys):
    with plain.errors():
        pass
    assert capsys.readouterr() == ("", "")
