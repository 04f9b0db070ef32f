# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""No module of the package can execute code from a file."""
from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / 'ptdiffseg_ros'
MODULES = {'pickle', 'dill', 'cloudpickle', 'joblib', 'marshal', 'shelve'}
CALLS = {'eval', 'exec', 'torch.load', 'torch.jit.load', 'yaml.load', 'yaml.unsafe_load',
         'yaml.full_load', 'os.system', 'pandas.read_pickle'}


def dangers(source: str) -> list[str]:
    """Name what can run code from a file: modules, calls, and arguments of calls."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split('.')[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            if (name := ast.unparse(node.func)) in CALLS:
                found.append(name)
            for item in node.keywords:
                wanted = {'allow_pickle': True, 'shell': True, 'use_safetensors': False,
                          'trust_remote_code': True}.get(item.arg or '')
                if wanted is not None and getattr(item.value, 'value', None) is wanted:
                    found.append(f'{item.arg}={wanted}')
    return found


def test_no_module_can_execute_code_from_a_file() -> None:
    files = list(PACKAGE.rglob('*.py'))
    assert len(files) > 50
    assert {str(f): d for f in files if (d := dangers(f.read_text()))} == {}


@pytest.mark.parametrize(('source', 'danger'), [
    ('import pickle', 'pickle'), ('from joblib import load', 'joblib'),
    ('torch.load(path)', 'torch.load'), ('np.load(path, allow_pickle=True)', 'allow_pickle=True'),
    ('subprocess.run(words, shell=True)', 'shell=True'), ('yaml.load(text)', 'yaml.load')])
def test_the_check_finds_dangerous_calls(source: str, danger: str) -> None:
    assert dangers(source) == [danger]
