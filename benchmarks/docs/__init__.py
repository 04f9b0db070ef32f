# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The generated pages of the documentation, and the generated tables of written pages."""
