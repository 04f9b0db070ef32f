# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Latency, throughput and memory of a segmenter on this machine."""
