"""Cells and rings with a writer and a reader that run at once, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from robopolicy.core.errors import FrameRefused
from robopolicy.real_robot.driver.memory import HEAD, Block, Cell, Ring, aligned

SIZE, SLOTS = 3000, 8
TOTAL = aligned(HEAD + SIZE) + Ring.bytes_for(SLOTS, SIZE)
WRITER = f"""
import select, sys
from robopolicy.real_robot.driver.memory import Block, Cell, Ring
block = Block({TOTAL}, int(sys.argv[1]))
cell, ring = Cell(block, {SIZE}), Ring(block, {SLOTS}, {SIZE})
i = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    content = bytes([i % 251]) * (1 + i * 7 % {SIZE})
    cell.write(content[:10], content[10:])
    ring.push(content)
    i += 1
print(i)
"""


@pytest.fixture
def block():
    made = Block(TOTAL)
    yield made
    made.close()


def uniform(content: bytes) -> bool:
    return content.count(content[0]) == len(content)


def test_what_two_processes_write_and_read_at_once_is_never_torn(block):
    cell, ring = Cell(block, SIZE), Ring(block, SLOTS, SIZE)
    command = [sys.executable, "-c", WRITER, str(block.fd)]
    pipe = subprocess.PIPE
    writer = subprocess.Popen(command, pass_fds=[block.fd], stdin=pipe, stdout=pipe, text=True)
    seen, missed, at, taken, end = set(), 0, 0, 0, time.monotonic() + 60
    while (len(seen) < 200 or taken < 200) and time.monotonic() < end:
        found = cell.read()
        if found is None:
            missed += 1
        else:
            seen.add(found[0])
            assert uniform(found[1])
        at, contents = ring.since(at)
        taken += len(contents)
        assert all(map(uniform, contents))
    written = int(writer.communicate()[0])
    assert writer.returncode == 0
    assert len(seen) >= 200
    assert taken >= 200
    assert cell.version == 2 * written  # two numbers a write
    assert ring.count == written


def test_a_cell_gives_the_newest_and_says_whether_it_is_new(block):
    cell = Cell(block, SIZE)
    assert cell.read() is None
    assert cell.version == 0
    cell.write(b"first")
    cell.write(b"sec", b"ond")
    version, content = cell.read()
    assert (version, content) == (cell.version, b"second")
    with pytest.raises(FrameRefused, match="3001 bytes for a cell of 3000"):
        cell.write(bytes(SIZE + 1))
    assert cell.read() == (version, b"second")


def test_a_writer_that_died_in_the_middle_stops_nobody(block):
    cell = Cell(block, SIZE)
    cell.write(b"whole")
    cell._count[0] += 1  # as if it had been killed here
    began = time.monotonic()
    assert cell.read() is None
    assert time.monotonic() - began < 1.0
    cell.write(b"next")  # another writer takes over
    assert cell.read()[1] == b"next"


def test_content_whose_checksum_is_wrong_is_not_read(block):
    cell = Cell(block, SIZE)
    cell.write(b"whole")
    cell._body[0] ^= 1
    assert cell.read() is None


def test_a_ring_keeps_the_newest_in_order_and_passes_over_the_overwritten(block):
    ring = Ring(block, SLOTS, SIZE)
    for i in range(3):
        ring.push(b"%d" % i)
    at, found = ring.since(0)
    assert (at, found) == (3, [b"0", b"1", b"2"])
    assert ring.since(at) == (3, [])
    for i in range(3, 30):
        ring.push(b"%d" % i)
    assert ring.since(at) == (30, [b"%d" % i for i in range(22, 30)])


def test_the_memory_has_no_name_and_goes_with_its_last_user():
    block = Block(1 << 20)
    cell = Cell(block, SIZE)
    cell.write(b"x")
    fd = block.fd
    assert os.fstat(fd).st_nlink == 0  # no folder holds it: there is nothing that could be left behind
    block.close()
    block.close()
    with pytest.raises(ValueError, match="released"):
        cell.read()
    with pytest.raises(OSError):
        os.fstat(fd)
