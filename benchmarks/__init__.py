# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
How the figures of ptdiffseg_ros are made: claims, streams, soak, and their result files.

It lies in the clone and is never installed. It imports the package; the package never imports it.
``python -m benchmarks.NAME --help`` explains one.
"""
