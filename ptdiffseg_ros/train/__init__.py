# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Offline work: pretraining of the embedded backbone, training and evaluation of the head."""
