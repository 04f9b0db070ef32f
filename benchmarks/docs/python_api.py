# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The reference page of the Python API, from docstrings, without importing the modules."""
from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
import re

from benchmarks.docs.reference import NOTE

ROOT = Path(__file__).resolve().parents[2]
# The modules of the public API, and of each its names: a class with the methods that are shown,
# or a function.
PUBLIC: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    'model.segmenter': {
        'PromptedSegmenter': (
            'from_pretrained', 'save_pretrained', 'scene_prompt', 'context', 'segment'),
        'Segmentation': ()},
    'model.scene_prompt': {'ScenePrompt': ()},
    'model.segmenter_config': {'SegmenterConfig': ()},
    'adapt.loop': {'AdaptationLoop': (
        'prompt', 'enable', 'observe', 'work', 'adapt_now', 'set_base', 'reset', 'load')},
    'adapt.state': {'AdaptationConfig': ()},
    'adapt.offline': {'adapt_to': ()},
    'adapt.bank': {
        'LearnedPrompt': ('save', 'load'),
        'PromptBank': ('recall', 'remember', 'forget', 'domains')},
    'adapt.learned': {'LearnedPrompts': ('choose',)},
    'data.catalog': {'open_data': ()},
}


def python_api() -> str:
    """Return the page."""
    parts = [
        '# Python API', NOTE,
        'These names are the public API. None of them needs ROS. Shapes: B frames of H x W '
        'pixels, K classes, S tokens of width d, L cross-attention layers.']
    for module, names in PUBLIC.items():
        parts += _module(f'ptdiffseg_ros.{module}', names)
    return '\n\n'.join(parts) + '\n'


def _module(module: str, names: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    path = ROOT.joinpath(*module.split('.')).with_suffix('.py')
    defined = {node.name: node for node in ast.parse(path.read_text()).body
               if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    yield f'## {module}'
    for name, methods in names.items():
        node = defined[name]
        yield f'### {name}'
        yield _signature(name, node)
        yield from _docstring(node)
        if isinstance(node, ast.ClassDef):
            members = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef)}
            for method in methods:
                yield f'#### {name}.{method}'
                if 'property' not in map(ast.unparse, members[method].decorator_list):
                    yield _signature(method, members[method])
                yield from _docstring(members[method])


def _signature(name: str, node: ast.ClassDef | ast.FunctionDef) -> str:
    """Return how a function is called, or an instance of a class is made, as a code block."""
    if isinstance(node, ast.FunctionDef):
        returned = '' if node.returns is None else f' -> {ast.unparse(node.returns)}'
        arguments = _arguments(node)
    else:
        returned, arguments = '', []
        init = next((m for m in node.body
                     if isinstance(m, ast.FunctionDef) and m.name == '__init__'), None)
        if init is not None:
            arguments = _arguments(init)
        else:  # the fields of a dataclass
            arguments = [ast.unparse(f) for f in node.body if isinstance(f, ast.AnnAssign)]
    line = f'{name}({", ".join(arguments)}){returned}'
    if len(line) > 95:
        line = f'{name}(\n    ' + ',\n    '.join(arguments) + f'){returned}'
    return f'```python\n{line}\n```'


def _arguments(node: ast.FunctionDef) -> list[str]:
    """Return the arguments of a function as they are declared, without self and cls."""
    given = node.args.args
    defaults = [None] * (len(given) - len(node.args.defaults)) + list(node.args.defaults)
    words = [_argument(a, d) for a, d in zip(given, defaults) if a.arg not in ('self', 'cls')]
    if node.args.vararg is not None:
        words.append(f'*{_argument(node.args.vararg, None)}')
    if node.args.kwonlyargs:
        words += [] if node.args.vararg else ['*']
        words += map(_argument, node.args.kwonlyargs, node.args.kw_defaults)
    return words


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    kind = '' if argument.annotation is None else f': {ast.unparse(argument.annotation)}'
    return f'{argument.arg}{kind}' + ('' if default is None else f' = {ast.unparse(default)}')


def _docstring(node: ast.ClassDef | ast.FunctionDef) -> Iterator[str]:
    """Yield the paragraphs of a docstring; fields such as `:param x:` become one list."""
    text = (ast.get_docstring(node) or '').replace('<', '&lt;')
    for paragraph in re.split(r'\n\s*\n', text):
        lines = re.sub(r'\n\s+', ' ', paragraph).split('\n')
        if lines[0].startswith(':'):
            yield '\n'.join(f'* {_field(line)}' for line in lines)
        elif paragraph:
            yield '\n'.join(lines)


def _field(line: str) -> str:
    kind, _, text = line[1:].partition(':')
    word, _, names = kind.partition(' ')
    return f'{names and f"`{names}`" if word == "param" else kind}:{text}'
