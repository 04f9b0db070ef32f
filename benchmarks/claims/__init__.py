# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The paper's four claims, checked on the town beside honest baselines.

`budget` says how much is spent, `store` keeps what is known, `experiment` trains and measures one
variant; `backbones`, `prompts`, `randomization` and `adaptation` are the claims 1 to 4,
`baselines` what claim 1 compares with, `verdicts` what is expected, and `report` the document.
"""
