# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The paper's four claims, checked on the town against baselines.

`budget` has the sizes of all experiments, `results_store` the file of figures. `experiment` trains
and measures one variant. `backbones`, `prompts`, `randomization` and `adaptation` are the claims 1
to 4, and `baselines` has the baselines of claim 1. `verdicts` has the expectations, and `report`
writes the document.
"""
