# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The common interface of bag files, and the files of SQLite and of ROS 1."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import closing, ExitStack
from dataclasses import dataclass
import io
from pathlib import Path
import sqlite3
from typing import Any, BinaryIO

ZSTD = b'\x28\xb5\x2f\xfd'  # the first bytes of compressed data; CDR starts with a zero
Message = tuple[int, str, bytes]  # time of recording in ns, topic, serialized message


class BagError(ValueError):
    """A path that is no readable bag, a damaged part of a bag, or a topic that is missing."""


@dataclass(frozen=True)
class Channel:
    """
    The messages of a topic in one file.

    :param encoding: of the serialized messages; ``cdr`` in ROS 2.
    :param qos: the offered profiles, as YAML.
    """

    topic: str
    kind: str
    encoding: str = 'cdr'
    qos: str = ''
    count: int = 0


class Storage(ABC):
    """
    A file of a bag, open for reading.

    :raises BagError: the file cannot be read as a bag.

    start_ns: time of the first message. end_ns: after the last message; 0 without messages.
    """

    channels: list[Channel]
    start_ns: int
    end_ns: int
    _file: Any  # a file, a connection or a reader

    @abstractmethod
    def messages(self, topics: Collection[str]) -> Iterator[Message | BagError]:
        """Yield messages in order of time, and an error in place of a damaged part."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class SqliteFile(Storage):
    """A ``.db3`` file, opened without a change to any file in its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with ExitStack() as stack:
                self._file = stack.enter_context(closing(_connected(path)))
                self._read_topics()
                stack.pop_all()
        except Exception as error:  # a damaged database raises more than sqlite3.Error
            raise BagError(
                f'{path} cannot be read as a bag: {error}. If the recorder left a file '
                f'{path.name}-wal, copy both files and try: ros2 bag reindex') from error

    def _read_topics(self) -> None:
        rows = self._file.execute(
            'SELECT * FROM topics LEFT JOIN (SELECT topic_id, count(*) AS count, '
            'min(timestamp) AS first, max(timestamp) AS last FROM messages GROUP BY topic_id) '
            'ON topic_id = id').fetchall()
        self.channels = [
            Channel(row['name'], row['type'], row['serialization_format'],
                    row['offered_qos_profiles'] if 'offered_qos_profiles' in row.keys() else '',
                    row['count'] or 0)
            for row in rows]
        self.start_ns = min((row['first'] for row in rows if row['count']), default=0)
        self.end_ns = max((row['last'] + 1 for row in rows if row['count']), default=0)

    def messages(self, topics: Collection[str]) -> Iterator[Message | BagError]:
        try:
            # CROSS JOIN: SQLite scans messages by the index of time, and sorts nothing.
            yield from self._file.execute(
                'SELECT timestamp, name, data FROM messages CROSS JOIN topics ON topic_id = '
                f'topics.id WHERE name IN ({", ".join("?" * len(topics))}) '
                'ORDER BY timestamp, messages.id', [*topics])
        except sqlite3.Error as error:
            yield BagError(f'{self.path} is damaged: {error}')


def _connected(path: Path) -> sqlite3.Connection:
    """
    Open a database read-only, together with the write-ahead log of a killed recorder.

    By default SQLite writes an index next to the log, which fails on a read-only disk. With
    exclusive locks it keeps the index in memory. The VFS unix-none takes no locks.
    """
    log = path.with_name(f'{path.name}-wal')
    # SQLite may delete the log of an empty database.
    with_log = log.exists() and log.stat().st_size > 0 and path.stat().st_size > 0
    options = 'mode=ro&vfs=unix-none' if with_log else 'immutable=1'
    # A bag may be read in another thread than the one that opened it.
    file = sqlite3.connect(
        f'{path.absolute().as_uri()}?{options}', uri=True, check_same_thread=False)
    file.row_factory = sqlite3.Row
    if with_log:
        file.execute('PRAGMA locking_mode = EXCLUSIVE')
    return file


class Ros1File(Storage):
    """A ROS 1 ``.bag`` file, read by rosbags."""

    def __init__(self, path: Path) -> None:
        from rosbags.rosbag1 import Reader

        self.path = path
        try:
            self._file = Reader(path)
            self._file.open()
        except Exception as error:  # a parser of untrusted bytes raises errors of many types
            raise BagError(f'{path} cannot be read as a ROS 1 bag: {error}') from error
        self.channels = [Channel(c.topic, c.msgtype, 'ros1', count=c.msgcount)
                         for c in self._file.connections]
        self.start_ns, self.end_ns = self._file.start_time, self._file.end_time

    def messages(self, topics: Collection[str]) -> Iterator[Message | BagError]:
        chosen = [c for c in self._file.connections if c.topic in topics]
        if not chosen:
            return
        try:
            yield from ((time_ns, connection.topic, data) for connection, time_ns, data in
                        self._file.messages(chosen))
        except Exception as error:  # a parser of untrusted bytes raises errors of many types
            yield BagError(f'{self.path} is damaged: {error}')


def decompressed(data: bytes) -> bytes:
    """Decompress data that are compressed by Zstandard; return other data unchanged."""
    return b''.join(decompress(io.BytesIO(data))) if data[:4] == ZSTD else data


def decompress(packed: BinaryIO) -> Iterator[bytes]:
    """
    Yield the content of a Zstandard file in parts.

    :raises EOFError: the compressed file is truncated.
    """
    from zstandard import ZstdDecompressor

    # The library's file readers do not detect a truncated file.
    stream, block = ZstdDecompressor().decompressobj(), b''
    while block := block or packed.read(1 << 20):
        if stream.eof:  # another frame begins
            stream = ZstdDecompressor().decompressobj()
        yield stream.decompress(block)
        block = stream.unused_data
    if not stream.eof:
        raise EOFError('the file is truncated')
