# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tables of `street` and the networks that it is compared with."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from ptdiffseg_ros.data.results import markdown_table

STREET = '`street`: pretrained UNet, frozen; head: mean of two trainings'
NETWORKS = {
    'random weights': 'the same UNet with random weights, frozen; trained head',
    'end to end': 'the same UNet and head, trained whole from random weights',
    'SegFormer-B0': 'SegFormer-B0, trained whole from random weights'}
TRAINED = {'rate': '0.004', 'batch': 8, 'labelled': 425}  # in every version of `street`
CROPS = 3 * 425  # the labelled pictures and two crops of each, for `crop_steps`
ABSENT_AT_DUSK = 'fence'  # no pixel of the 22 images has this class

Figures = dict[str, Any]


def _cells(baselines: Figures) -> Iterator[tuple[str, Figures]]:
    """Yield name and cell of each training, with its learning rate."""
    for method, rates in baselines['cells'].items():
        for rate, seeds in sorted(rates.items()):
            for cell in seeds.values():
                yield method, {**cell, 'rate': rate}


def baseline_table(street: Figures, baselines: Figures) -> str:
    """
    Return mIoU by day, at dusk and on KITTI.

    The share of day that is kept at dusk is that of the classes with pixels at dusk.

    :param street: street_val.json.
    :param baselines: street_baselines.json.
    """
    rows = []
    networks = [(STREET, {**TRAINED, **street}),
                *((_version(cell), {**TRAINED, **cell}) for cell in street['other_versions']),
                *((NETWORKS[method], cell) for method, cell in _cells(baselines))]
    for name, cell in networks:
        figures = cell['figures']
        day, dusk = (_mean(figures[split]['iou']) for split in ('day', 'dusk'))
        rows.append([
            name, cell['rate'], _steps(cell), f'{_passes(cell):.1f}',
            *(f'{figures[split]["miou"]:.1f}' for split in ('day', 'dusk', 'kitti')),
            f'{day:.1f}', f'{dusk:.1f}', f'{100 * dusk / day:.0f} %'])
    return markdown_table(
        ['network', 'learning rate', 'steps x batch', 'passes over the images', 'day', 'dusk',
         'KITTI', f'day without {ABSENT_AT_DUSK}', f'dusk without {ABSENT_AT_DUSK}',
         'kept at dusk'], rows)


def _version(cell: Figures) -> str:
    """Name another version of `street`."""
    head = ', head of the last training' if 'crop_steps' in cell else ''
    return (f'other version: {cell["pretraining_steps"]:,} steps of pretraining, head_blocks '
            f'{cell["head_blocks"]}, distortion {cell["distortion"]}{head}')


def _steps(cell: Figures) -> str:
    """Return steps and batch, and those on crops, if there were any."""
    crops = f', on crops {cell["crop_steps"]} x {cell["batch"]}' if 'crop_steps' in cell else ''
    return f'{cell["steps"]} x {cell["batch"]}{crops}'


def _passes(cell: Figures) -> float:
    """Return the passes over the pictures, and over pictures and crops."""
    return float(cell['batch'] * (
        cell['steps'] / cell['labelled'] + cell.get('crop_steps', 0) / CROPS))


def _mean(iou: dict[str, float]) -> float:
    """Return the mean IoU over the classes that are present at dusk."""
    return float(np.mean([value for name, value in iou.items() if name != ABSENT_AT_DUSK]))


def class_table(street: Figures, baselines: Figures) -> str:
    """Return IoU by class on CamVid by day; parameters as of `baseline_table`."""
    columns = {'`street`': street, **{
        f'{method}, {cell["rate"]}': cell for method, cell in _cells(baselines)}}
    return markdown_table(
        ['class', *columns],
        [[name, *(f'{cell["figures"]["day"]["iou"][name]:.0f}' for cell in columns.values())]
         for name in street['figures']['day']['iou']])


def curve_table(baselines: Figures) -> str:
    """Return mIoU after each quarter of the steps, of the networks trained whole."""
    return markdown_table(
        ['network', 'learning rate', 'steps', 'day, a quarter', 'day, half', 'day, three quarters',
         'day, all', 'training images, all'],
        [[method, cell['rate'], cell['steps'],
          *(f'{miou:.1f}' for miou in (*cell['day_quarters'], cell['training_miou']))]
         for method, cell in _cells(baselines) if 'day_quarters' in cell])


def dusk_table(figures: dict[str, Any]) -> str:
    """Return the mIoU of each method that adapted to unlabelled photographs, and its gain."""
    seeds, rates = figures['seeds'], figures['learning_rates']
    rows = []
    for name in next(iter(seeds.values())):
        gains = [miou[name] - miou['source'] for miou in seeds.values()]
        rows.append([name, f'{rates[name]:g}' if name in rates else '',
                     *(f'{miou[name]:.1f}' for miou in seeds.values()), f'{np.mean(gains):+.2f}'])
    return markdown_table(
        ['method', 'learning rate', *(f'seed {seed}' for seed in seeds), 'mean gain'], rows)
