# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node's parameter `engine`: masks never wait for an engine, nor does a transition."""

from __future__ import annotations

from pathlib import Path
import signal

from conversions import conversion, ends, yields
import numpy as np
import pytest
from ros_harness import ACTIVATE, CLEANUP, CONFIGURE, Consumer, DEACTIVATE, start_segmenter

pytest.importorskip('openvino', reason='an optional engine (extra openvino)')
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # seconds where a machine is idle

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, (160, 96, 3), np.uint8)  # needs another model
WAITS = 'openvino (eager until its model is ready)'


def test_eager_serves_until_openvino_is_ready_and_a_conversion_delays_nothing(
        folder: Path, consumer: Consumer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    process = start_segmenter(folder, device='cpu', engine='cuda_graph')
    try:
        output = process.wait_for_output('configure failed')
        assert 'cuda_graph needs a CUDA device' in output and 'dtype and engine can be' in output

        assert consumer.set_parameter('engine', 'openvino').successful
        assert consumer.change_state(CONFIGURE) and consumer.change_state(ACTIVATE)
        process.wait_for_output(f'is ready on cpu, engine {WAITS}')
        eager = consumer.segment(PIXELS)
        conversion(folder)
        assert consumer.values()['engine'] == WAITS
        assert consumer.spin_until(lambda: consumer.values()['engine'] == 'openvino')
        accelerated = consumer.segment(PIXELS)
        alike = np.frombuffer(eager.data, np.uint8) == np.frombuffer(accelerated.data, np.uint8)
        assert alike.mean() >= 0.999

        consumer.segment(OTHER)
        converts = conversion(folder)
        yields(converts)
        assert consumer.change_state(DEACTIVATE) and consumer.change_state(CLEANUP)
        assert ends(converts)

        assert consumer.change_state(CONFIGURE) and consumer.change_state(ACTIVATE)
        consumer.segment(OTHER)
        converts = conversion(folder)
        assert process.end(signal.SIGTERM) == 0
        assert ends(converts)
        assert 'Traceback' not in process.output
        assert len(list(tmp_path.rglob('manifest.json'))) == 1  # neither ran to its own end
    finally:
        process.kill()
