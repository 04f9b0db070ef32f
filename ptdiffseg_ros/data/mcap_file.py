# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
MCAP files, also truncated ones, and files without an index or with channels that are not ROS.

The package `mcap` parses the records. Its readers stop at the first damaged record, and do not
detect a file that ends inside a message. Therefore this module locates the records.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
import heapq
from io import BytesIO
from pathlib import Path
import struct

from mcap import records
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.stream_reader import breakup_chunk, get_chunk_data_stream, MAGIC_SIZE, StreamReader
from mcap.summary import Summary
from ptdiffseg_ros.data.storage import BagError, Channel, Message, Storage

HEAD = struct.Struct('<BQ')  # of a record: opcode and length of the content
SCANNED = (Opcode.CHUNK, Opcode.MESSAGE, Opcode.SCHEMA, Opcode.CHANNEL)
MESSAGE_HEAD_SIZE = 22  # bytes in the content of a message before its data


class McapFile(Storage):
    """An MCAP file. Without a usable summary at its end, as after a killed recorder, scan it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._summary = Summary()
        self._counts: Counter[int] = Counter()
        # Chunks and messages outside chunks: start in ns, offset, channel ids (empty: unknown).
        self._blocks: list[tuple[int, int, frozenset[int]]] = []
        self.start_ns = self.end_ns = 0
        try:
            self._file = path.open('rb')
        except OSError as error:
            raise BagError(f'{path} cannot be opened: {error.strerror}') from error
        self._size = path.stat().st_size
        try:
            reader = SeekingReader(self._file)
        except Exception as error:  # a parser of untrusted bytes raises errors of many types
            self._file.close()
            raise BagError(
                f'{path} cannot be read as a bag: it does not start as an MCAP file') from error
        if not self._read_summary(reader):
            self._scan()
        self._blocks.sort(key=lambda block: block[:2])
        self.channels = []
        for number, channel in self._summary.channels.items():
            schema = self._summary.schemas.get(channel.schema_id)
            self.channels.append(Channel(
                channel.topic, schema.name if schema else '', channel.message_encoding,
                channel.metadata.get('offered_qos_profiles', ''), self._counts[number]))

    def messages(self, topics: Collection[str]) -> Iterator[Message | BagError]:
        wanted = {number: channel.topic for number, channel in self._summary.channels.items()
                  if channel.topic in topics}
        waiting: list[tuple[int, int, Message]] = []  # chunks may overlap in time
        serial, damaged = 0, False
        for start_ns, offset, channels in self._blocks:
            if channels and channels.isdisjoint(wanted):
                continue
            while waiting and waiting[0][0] <= start_ns:  # at the same time, file order
                yield heapq.heappop(waiting)[2]
            try:
                found = self._read(*self._head(offset))
            except Exception as error:  # a parser of untrusted bytes
                damaged = True
                yield BagError(f'{self.path} is damaged at byte {offset}: '
                               f'{str(error) or type(error).__name__}')
                continue
            for item in found:
                if isinstance(item, records.Message) and item.channel_id in wanted:
                    serial += 1
                    heapq.heappush(waiting, (item.log_time, serial, (
                        item.log_time, wanted[item.channel_id], item.data)))
        while waiting:
            yield heapq.heappop(waiting)[2]
        lost = sum(self._counts[number] for number in wanted) - serial
        if lost and not damaged:  # damage inside a chunk without a checksum
            yield BagError(f'{self.path} is damaged: {lost} of its messages cannot be found')

    def _read_summary(self, reader: SeekingReader) -> bool:
        """Read the index at the end; return whether it lists all messages."""
        try:
            summary = reader.get_summary()
        except Exception:  # a parser of untrusted bytes
            return False
        if summary is None or (total := summary.statistics) is None:
            return False
        counts, chunks = total.channel_message_counts, summary.chunk_indexes
        if (total.chunk_count != len(chunks) or total.channel_count != len(summary.channels)
                or total.message_count != sum(counts.values())
                or total.message_count and not chunks):
            return False
        self._summary = summary
        self._counts.update(counts)
        self._blocks = [(chunk.message_start_time, chunk.chunk_start_offset,
                         frozenset(chunk.message_index_offsets)) for chunk in chunks]
        if total.message_count:
            self.start_ns, self.end_ns = total.message_start_time, total.message_end_time + 1
        return True

    def _scan(self) -> None:
        """Read the file from its start; damaged parts become blocks of unknown content."""
        offset, latest = MAGIC_SIZE, 0
        while True:
            try:
                code, size = self._head(offset)
            except ValueError:  # the file is truncated
                self._blocks.append((latest + 1, offset, frozenset()))
                break
            if code in (Opcode.DATA_END, Opcode.FOOTER):
                break
            found = []
            try:  # the data of a message outside a chunk may be large, and are read later
                if code in SCANNED:
                    found = self._read(
                        code, min(size, MESSAGE_HEAD_SIZE) if code == Opcode.MESSAGE else size)
            except Exception:  # a parser of untrusted bytes
                self._blocks.append((latest + 1, offset, frozenset()))
            if messages := self._note(found):
                times, numbers = zip(*messages)
                latest = max(latest, *times)
                self._counts.update(numbers)
                self._blocks.append((min(times), offset, frozenset(numbers)))
            offset += HEAD.size + size
        if starts := [start_ns for start_ns, _, numbers in self._blocks if numbers]:
            self.start_ns, self.end_ns = min(starts), latest + 1

    def _note(self, found: list[records.McapRecord]) -> list[tuple[int, int]]:
        """Keep schemas and channels; return (time in ns, channel) of each message."""
        messages = []
        for item in found:
            if isinstance(item, records.Schema):
                self._summary.schemas[item.id] = item
            elif isinstance(item, records.Channel):
                self._summary.channels[item.id] = item
            elif isinstance(item, records.Message):
                messages.append((item.log_time, item.channel_id))
        return messages

    def _head(self, offset: int) -> tuple[int, int]:
        """
        Seek to the content of a record; return the opcode and the length of the content.

        :raises ValueError: the file ends inside the record.
        """
        self._file.seek(offset)
        head = self._file.read(HEAD.size)
        code, size = HEAD.unpack(head.ljust(HEAD.size, b'\xff'))
        if offset + HEAD.size + size > self._size:
            raise ValueError('the file ends in the middle of a record, as after a killed '
                             'recorder; everything before it was read')
        return code, size

    def _read(self, code: int, size: int) -> list[records.McapRecord]:
        """Read the content of a record: the records in a chunk, or the record itself."""
        if code not in SCANNED:
            raise ValueError(f'the record is of type {code}, not a chunk ({Opcode.CHUNK:d})')
        stream = BytesIO(HEAD.pack(code, size) + self._file.read(size))
        record = next(StreamReader(stream, skip_magic=True, emit_chunks=True).records)
        if not isinstance(record, records.Chunk):
            return [record]
        content, size = get_chunk_data_stream(record, validate_crc=True)
        if size != record.uncompressed_size:  # also if the compression is unknown
            raise ValueError(f'a chunk (compression {record.compression!r}; known are zstd and '
                             f'lz4) has {size} bytes instead of {record.uncompressed_size}')
        return breakup_chunk(replace(record, compression='', data=content.read(size)))
