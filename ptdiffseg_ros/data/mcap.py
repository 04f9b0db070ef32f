# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
MCAP files, also with channels that are not ROS, without an index, or cut short.

The format: https://mcap.dev/spec.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
import heapq
import importlib
import io
from pathlib import Path
import struct
from typing import Any, BinaryIO
import zlib

from ptdiffseg_ros.data.storage import BagError, Channel, Message, zstd_file

MAGIC = b'\x89MCAP0\r\n'
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK = 0x02, 0x03, 0x04, 0x05, 0x06
CHUNK_INDEX, STATISTICS, DATA_END = 0x08, 0x0B, 0x0F
RECORD, MESSAGE_HEAD = struct.Struct('<BQ'), struct.Struct('<HIQQ')
FOOTER_BYTES = RECORD.size + 20 + len(MAGIC)


class _Cursor:
    """Reads the fields of a record one after the other; struct.error where it ends early."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def numbers(self, layout: str) -> Any:
        """Give numbers of a layout of struct's, little-endian."""
        found = struct.unpack_from(f'<{layout}', self._data, self._at)
        self._at += struct.calcsize(f'<{layout}')
        return found[0] if len(found) == 1 else found

    def blob(self, length: str = 'I') -> bytes:
        """Give bytes that their number comes before."""
        size = self.numbers(length)
        if self._at + size > len(self._data):
            raise struct.error('a record is shorter than its fields')
        self._at += size
        return self._data[self._at - size:self._at]

    def text(self) -> str:
        """Give a string."""
        return self.blob().decode(errors='replace')

    def counts(self) -> dict[int, int]:
        """Give a map of numbers (16 bits) to numbers (64 bits)."""
        return dict(struct.iter_unpack('<HQ', self.blob()))

    def texts(self) -> dict[str, str]:
        """Give a map of strings."""
        inner = _Cursor(self.blob())
        found = {}
        while not inner.done:
            key = inner.text()
            found[key] = inner.text()
        return found

    @property
    def done(self) -> bool:
        """Return whether all was read."""
        return self._at >= len(self._data)


@dataclass(frozen=True, order=True)
class _Block:
    """A record that holds messages: a chunk, or one message alone."""

    start_ns: int
    offset: int
    channels: frozenset[int]


class McapFile:
    """
    An MCAP file.

    Without a usable summary at its end, as a killed recorder leaves it, the file is scanned.

    :raises BagError: it is no MCAP file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._schemas: dict[int, tuple[str, str, str]] = {}  # name, format, definition
        self._found: dict[int, tuple[int, str, str, str]] = {}  # schema, topic, encoding, QoS
        self._counts: Counter[int] = Counter()
        self._blocks: list[_Block] = []
        self._damage: list[BagError] = []
        self.start_ns = self.end_ns = 0
        try:
            self._file: BinaryIO = path.open('rb')
        except OSError as error:
            raise BagError(f'{path} cannot be opened: {error.strerror}') from error
        self._size = path.stat().st_size
        if self._file.read(len(MAGIC)) != MAGIC:
            self._file.close()
            raise BagError(f'{path} cannot be read as a bag: it does not begin as an MCAP file')
        if not self._read_summary():
            self._scan()
        self._blocks.sort()
        self._topics = {number: entry[1] for number, entry in self._found.items()}
        self.channels = [
            Channel(topic, name, encoding, (kind, text), qos, self._counts[number])
            for number, (schema, topic, encoding, qos) in self._found.items()
            for name, kind, text in (self._schemas.get(schema, ('', '', '')),)]

    def messages(self, topics: Collection[str]) -> Iterator[Message | BagError]:
        """Yield messages in order of time, and an error in the place of a damaged part."""
        wanted = {number for number, topic in self._topics.items() if topic in topics}
        waiting: list[tuple[int, int, int, bytes]] = []  # chunks may overlap in time
        serial = 0
        for block in self._blocks:
            if block.channels.isdisjoint(wanted):
                continue
            while waiting and waiting[0][0] < block.start_ns:
                time_ns, _, number, data = heapq.heappop(waiting)
                yield time_ns, self._topics[number], data
            try:
                inside = self._messages_in(block)
            except (struct.error, ValueError, OSError) as error:
                yield BagError(f'{self.path} is damaged at byte {block.offset}: {error}')
                continue
            for number, time_ns, data in inside:
                if number in wanted:
                    heapq.heappush(waiting, (time_ns, serial, number, data))
                    serial += 1
        while waiting:
            time_ns, _, number, data = heapq.heappop(waiting)
            yield time_ns, self._topics[number], data
        yield from self._damage

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _head(self, offset: int) -> tuple[int, int]:
        """Go to a record; give its opcode and the length of its content."""
        if offset + RECORD.size > self._size:
            raise struct.error('the file ends before a record')
        self._file.seek(offset)
        code, size = RECORD.unpack(self._file.read(RECORD.size))
        if offset + RECORD.size + size > self._size:
            raise struct.error('the file ends in the middle of a record')
        return code, size

    def _messages_in(self, block: _Block) -> list[tuple[int, int, bytes]]:
        """Read (channel, time in ns, data) of a block."""
        code, size = self._head(block.offset)
        content = self._file.read(size)
        records = [(code, content)] if code == MESSAGE else _records(_unpacked(content))
        found = []
        for inner, data in records:
            if inner == MESSAGE:
                number, _, time_ns, _ = MESSAGE_HEAD.unpack_from(data)
                found.append((number, time_ns, data[MESSAGE_HEAD.size:]))
        return found

    def _read_summary(self) -> bool:
        """Read the index at the end; return whether there is one that says all."""
        end = self._size - FOOTER_BYTES
        statistics = None
        try:
            code, size = self._head(max(end, len(MAGIC)))
            start = _Cursor(self._file.read(size)).numbers('QQI')[0]
            if code != FOOTER or self._file.read() != MAGIC or not 0 < start < end:
                return False
            self._file.seek(start)
            for code, content in _records(self._file.read(end - start)):
                if code == CHUNK_INDEX:
                    cursor = _Cursor(content)
                    first, _, offset, _ = cursor.numbers('QQQQ')
                    self._blocks.append(_Block(first, offset, frozenset(cursor.counts())))
                elif code == STATISTICS:
                    statistics = _Cursor(content)
                else:
                    self._note(code, content)
            if statistics is not None:
                total, _, channels, _, _, chunks, first, last = statistics.numbers('QHIIIIQQ')
                counts = statistics.counts()
                if (chunks == len(self._blocks) and channels == len(self._found)
                        and sum(counts.values()) == total and (chunks or not total)
                        and all(block.channels for block in self._blocks)):
                    self._counts.update(counts)
                    self.start_ns, self.end_ns = (first, last + 1) if total else (0, 0)
                    return True
        except (struct.error, ValueError, OSError):
            pass
        self._blocks.clear()
        return False

    def _scan(self) -> None:
        """Read the file from its start, as far as it is whole."""
        offset = len(MAGIC)
        first, last = [], []
        while True:
            try:
                code, size = self._head(offset)
            except struct.error:
                self._damage.append(BagError(
                    f'{self.path} ends in the middle of a record, as where the recorder was '
                    f'killed; what comes before byte {offset} was read'))
                break
            if code in (DATA_END, FOOTER):
                break
            try:
                if inside := self._look_into(code, size):
                    times = [time_ns for _, time_ns in inside]
                    self._counts.update(number for number, _ in inside)
                    first.append(min(times))
                    last.append(max(times))
                    self._blocks.append(
                        _Block(first[-1], offset, frozenset(number for number, _ in inside)))
            except (struct.error, ValueError, OSError) as error:
                self._damage.append(
                    BagError(f'{self.path} is damaged at byte {offset}: {error}'))
            offset += RECORD.size + size
        if first:
            self.start_ns, self.end_ns = min(first), max(last) + 1

    def _look_into(self, code: int, size: int) -> list[tuple[int, int]]:
        """Note the schemas and channels of a record; give (channel, time in ns) of messages."""
        if code == MESSAGE:  # its data, which may be large, is read when it is wanted
            number, _, time_ns, _ = MESSAGE_HEAD.unpack(self._file.read(MESSAGE_HEAD.size))
            return [(number, time_ns)]
        if code not in (SCHEMA, CHANNEL, CHUNK):
            return []
        content = self._file.read(size)
        if code != CHUNK:
            self._note(code, content)
            return []
        found = []
        for inner, data in _records(_unpacked(content)):
            self._note(inner, data)
            if inner == MESSAGE:
                number, _, time_ns, _ = MESSAGE_HEAD.unpack_from(data)
                found.append((number, time_ns))
        return found

    def _note(self, code: int, content: bytes) -> None:
        """Remember a schema or a channel."""
        cursor = _Cursor(content)
        if code == SCHEMA:
            number = cursor.numbers('H')
            self._schemas[number] = cursor.text(), cursor.text(), cursor.text()
        elif code == CHANNEL:
            number, schema = cursor.numbers('HH')
            self._found[number] = (
                schema, cursor.text(), cursor.text(),
                cursor.texts().get('offered_qos_profiles', ''))


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (opcode, content) of records one after the other."""
    at = 0
    while at < len(data):
        code, size = RECORD.unpack_from(data, at)
        at += RECORD.size
        if at + size > len(data):
            raise struct.error('a record is longer than what is around it')
        yield code, data[at:at + size]
        at += size


def _unpacked(chunk: bytes) -> bytes:
    """
    Give the records in a chunk.

    :raises ValueError: it is damaged, or compressed in an unknown way.
    """
    cursor = _Cursor(chunk)
    _, _, size, checksum = cursor.numbers('QQQI')
    compression, data = cursor.text(), cursor.blob('Q')
    try:
        if compression == 'zstd':
            data = bytes(zstd_file(io.BytesIO(data)).read())
        elif compression == 'lz4':
            data = importlib.import_module('lz4.frame').decompress(data)
        elif compression:
            raise ValueError(f'the compression {compression!r} is unknown; known are zstd and lz4')
    except ValueError:
        raise
    except Exception as error:  # each library has its own
        raise ValueError(f'a chunk cannot be decompressed ({error})') from error
    if len(data) != size or checksum and zlib.crc32(data) != checksum:
        raise ValueError('a chunk does not have its checksum')
    return data
