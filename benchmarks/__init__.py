# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Benchmarks of ptdiffseg_ros and their result files: claims, stream, soak and street.

They are part of the source tree and never installed. They import the package, which never imports
them. ``python -m benchmarks.NAME --help`` explains each of them.
"""
