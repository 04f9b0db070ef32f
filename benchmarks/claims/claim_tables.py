# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The tables of each claim, with the text that explains them."""
from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.claims import verdicts
from benchmarks.claims.adaptation import earlier, TIMED
from benchmarks.claims.backbones import CONVERGING
from benchmarks.claims.plots import miou_cells, NOT_MIOU
from benchmarks.claims.results_store import Figures
import numpy as np
from ptdiffseg_ros.data.results import markdown_table
from ptdiffseg_ros.train.settings import TrainConfig

ROW_TITLES = {
    'diffusion': 'text-to-image diffusion (ours), frozen',
    'random weights': 'the same UNet, random weights, frozen',
    'masked autoencoder': 'the same UNet, masked autoencoder, frozen',
    'end to end': 'the same UNet, end to end with labels',
    'SegFormer-B0': 'SegFormer-B0, end to end with labels'}
EARLIER_SCHEDULE = 'a plateau and linear decay'  # of masked autoencoders that store none
_TIMESTEP = f't = {TrainConfig.timestep}'


def spread(values: Sequence[float], form: str = '.1f') -> str:
    """Format the mean and, if values differ, the least and the greatest."""
    mean, least, most = (
        format(round(v) if form == 'd' else v, form)
        for v in (float(np.mean(values)), min(values), max(values)))
    return mean if least == most else f'{mean} ({least} to {most})'


def _table(figures: Figures, claim: str,
           more: dict[str, tuple[str, Callable[[Figures], float]]] | None = None) -> str:
    """Format mIoU by condition, the adverse mean with its spread, and further columns."""
    rows = miou_cells(figures, claim)
    conditions = list(next(iter(rows.values()))[0]['miou'])
    lines = []
    for variant, cells in rows.items():
        means = [float(np.mean([cell['miou'][c] for cell in cells])) for c in conditions]
        lines.append([
            ROW_TITLES.get(variant, variant), str(len(cells)), *(f'{m:.1f}' for m in means),
            spread([cell['adverse_mean'] for cell in cells]),
            *(spread([take(cell) for cell in cells], form)
              for form, take in (more or {}).values())])
    head = ['mIoU, %', 'seeds', *conditions, 'adverse mean', *(more or {})]
    return markdown_table(head, lines)


def precisions(figures: Figures) -> str:
    """Describe the number formats of the trainings."""
    parts = []
    for row, seeds in figures['cells']['1'].items():
        names = [cell['precision'] for cell in seeds.values() if 'precision' in cell]
        counts = [f'{name} ({names.count(name)} of {len(names)} seeds)'
                  for name in sorted(set(names))]
        if counts:
            parts.append(f'{ROW_TITLES[row]}: {", ".join(counts)}')
    return ('Rows learned in float32' + (
        ', but those that learn whole networks in bfloat16 where the processor has it: '
        + '; '.join(parts) if parts else '') + '.')


def _schedules(figures: Figures) -> str:
    """Return the learning-rate schedules of the masked autoencoder."""
    cells = figures['cells']['1'].get('masked autoencoder', {}).values()
    return ' or '.join(sorted({cell.get('schedule', EARLIER_SCHEDULE) for cell in cells}))


def _backbones(figures: Figures) -> str:
    table = _table(figures, '1', {
        'drop from clear': ('.1f', lambda cell: cell['miou']['clear'] - cell['adverse_mean']),
        'share kept, %': ('.1f', verdicts.kept),
        'learning rate': ('.3g', lambda cell: cell['rate'])})
    budget = figures['budget']
    table += (
        f'\n\nThe masked autoencoder had {budget["masked_steps"]} steps of '
        f'{budget["masked_batch"]} on {budget["masked_frames"]} frames, at a learning rate with '
        f'{_schedules(figures)}; networks trained whole begin from nothing, and had '
        f'{budget["end_to_end_steps"]} steps. {precisions(figures)} Before the labels, the '
        'diffusion model and the masked autoencoder have seen unlabelled frames in every weather, '
        'the former with captions that name it; and so has the autoencoder whose latents all rows '
        'but SegFormer-B0 see. Adverse weather is thus new to SegFormer-B0 alone, and without '
        'labels for all; so are mixtures, a tenth of those frames; the style is new for all. Rows '
        'with random weights have other ones with each seed; diffusion model and masked '
        'autoencoder are one pretraining each. Learning rates are chosen by the mean of all '
        'conditions, targets included, of the validation split, in trainings of another seed; '
        f'those of networks trained whole had {budget["sweep_share"]:g} of the steps. Where the '
        'best rate is the least or the greatest of those tried, another beyond it was tried, '
        'twice at most.')
    if figures['preset'] == 'quick':
        table += (' The diffusion model comes with its whole pretraining: in a quick run these '
                  'rows are weaker than they should be.')
    watched = [[ROW_TITLES[row], *(
        spread([cell['clear_val'][quarter] for cell in seeds.values()]) for quarter in range(4))]
        for row, seeds in figures['cells']['1'].items()
        if seeds and all('clear_val' in cell for cell in seeds.values())]
    if watched:
        table += '\n\n' + markdown_table(
            ['clear mIoU, validation split, after', *(
                f'{round(budget["end_to_end_steps"] * part / 4)} steps' for part in (1, 2, 3, 4))],
            watched)
    if miou_cells(figures, '1 longer'):
        table += (f'\n\nSegFormer-B0 with {budget["longer"]:g} times the steps, first seed, to '
                  f'see whether it had come to its end. {_shorter(figures)}\n\n' + _table(
                      figures, '1 longer', {'share kept, %': ('.1f', verdicts.kept)}))
    if miou_cells(figures, '1 ablations'):
        table += ('\n\nWhat the head is given, for the frozen backbones, each at its rate above; '
                  'the latents are those of the common autoencoder:\n\n' + _table(
                      figures, '1 ablations', {'share kept, %': ('.1f', verdicts.kept)}))
    sweeps = [[ROW_TITLES[row], ', '.join(
        f'{rate}: {cell["mean"]:.1f}' for rate, cell in sorted(
            rates.items(), key=lambda pair: float(pair[0])))]
        for row, rates in figures['cells'].get('1 rates', {}).items()]
    if not sweeps:
        return f'{table}\n\nLearning rates were not swept: each row has its usual one.'
    return f'{table}\n\n' + markdown_table(
        ['validation split, mean of all conditions', 'learning rate: mIoU'], sweeps)


def _shorter(figures: Figures) -> str:
    """Describe the result of the longer trained network after the usual steps."""
    cell = figures['cells']['1'].get(CONVERGING, {}).get('0')
    return '' if cell is None else (
        f'After the usual steps that seed has {cell["miou"]["clear"]:.1f} in clear weather, '
        f'{cell["adverse_mean"]:.1f} in adverse, and keeps {verdicts.kept(cell):.1f} %:')


_ABOUT_POOLS = ('"On" draws from the scene prompts of the five weathers, as the paper does, and '
                'so do the rows of lambda; a pool of n from the clear one and others. Words of '
                'the source: from the clear one in other words. Words '
                'of things: from the clear one with things that are not all in the picture. '
                "Without the targets' words: neither scene prompts nor the templates of the "
                'category prompts name an adverse weather, and "on" draws from words of the '
                'source.')
_ABOUT_CHANGED = ('Pixels changed: in the mean over all conditions and five scene prompts that '
                  'no pool has, the share with another class than under the source prompt.')


def _prompts(figures: Figures) -> str:
    """Format the table, and how much another scene prompt changes, if measured."""
    variants = figures['cells']['2']
    reach = [[f'{_TIMESTEP} (both)' if name == 'both' else name,
              spread([cell['agreement']['changed_percent'] for cell in seeds.values()], '.2f')]
             for name, seeds in variants.items() if all('agreement' in c for c in seeds.values())]
    table = (f'{_table(figures, "2")}\n\nWhere no timestep is said it is {_TIMESTEP}. A wrong '
             'scene prompt names a weather that is not there, a matching one the weather that is; '
             'their head is that of "both", which was trained under the clear prompt.')
    if not reach:
        return table
    return f'{table}\n\n{_ABOUT_CHANGED}\n\n' + markdown_table(
        ['both prompts, features at', 'pixels changed, %'], reach)


def _randomization(figures: Figures) -> str:
    table = _table(figures, '3', {
        'pixels changed, %': ('.2f', lambda cell: cell['agreement']['changed_percent']),
        'KL, 0.001 nats': ('.1f', lambda cell: 1e3 * cell['agreement']['divergence_nats'])})
    table += f'\n\n{_ABOUT_POOLS} {_ABOUT_CHANGED}'
    timed = figures['cells']['3'].get('caching', {}).get('0')
    if timed is None:
        return table
    seconds = timed['seconds_per_step']
    return f'{table}\n\n' + markdown_table(
        ['a training step', 'cached features', 'features anew', 'ratio', 'threads'],
        [['seconds', f'{seconds["cached"]:.3f}', f'{seconds["live"]:.3f}',
          f'{timed["ratio"]:.1f}', timed['threads']]])


def _adaptation(figures: Figures) -> str:
    budget = figures['budget']
    table = _table(figures, '4', {
        'online': ('.1f', lambda cell: float(np.mean(list(cell['online'].values())))),
        'numbers': ('d', lambda cell: cell['trainable']),
        'kept, KiB': ('.0f', lambda cell: cell['state_bytes'] / 1024),
        'for a step, MiB': ('.1f', lambda cell: cell['step_bytes'] / 2**20),
        'learning, in forward passes': ('.1f', lambda cell: cell['learning_in_passes']),
        'learning rate': ('g', lambda cell: cell.get('rate', 0.0))})
    parts = [
        f'A stream of {budget["stream_frames"]} unlabelled frames of each condition, from the '
        f'source; then {budget["held_out"]} other frames to measure on. Source: the '
        'segmenter as it is; '
        'head alone: without its layout denoiser; prompt: ours; pseudo labels: the objective of '
        'the paper; labelled prompt: the same prompt tuned with labels, for comparison, as an '
        'estimate of what can be had. The segmenter and the other frames are the same for all '
        'seeds, which are of the stream. The prompt and the labelled prompt take 50 steps at '
        'most, the others one every other frame. Online: frames of the stream, each '
        'predicted before it is learned from, mean of the conditions. Kept: what a method holds '
        'between frames beside the model, its latest frames included. For a step: what is held '
        'for the gradient. Learning: a frame of the stream beside its prediction, in the mean of '
        f'frames {TIMED} to {2 * TIMED}.', *_earlier(figures), table, gains(figures)]
    cost = figures['cells']['4'].get('cost', {}).get('0')
    if cost:
        parts.append(markdown_table(
            ['tuning on a frame, in forward passes of it', 'a learned prompt', 'a buffered frame'],
            [[cost['step_in_forward_passes'], f'{cost["prompt_file_bytes"]} bytes',
              f'{cost["buffer_bytes_per_frame"]} bytes']]))
    return '\n\n'.join(parts)


def _earlier(figures: Figures) -> list[str]:
    """Name the methods that were measured with earlier settings."""
    names = earlier(figures['cells']['4'])
    return [f'**Of earlier settings, and not measured anew since: {", ".join(names)}.** Then the '
            'scene prompt was one set of tokens for all layers.'] if names else []


def gains(figures: Figures) -> str:
    """Format the gain of each method over the source in each condition."""
    variants = figures['cells']['4']
    source = variants.get('source', {})
    lines, conditions = [], []
    for name, seeds in variants.items():
        pairs = [(cell, source[seed]) for seed, cell in seeds.items()
                 if name not in ('source', *NOT_MIOU) and seed in source]
        if pairs:
            conditions = list(pairs[0][0]['miou'])
            lines.append([name, *(
                spread([cell['miou'][c] - before['miou'][c] for cell, before in pairs], '+.1f')
                for c in conditions), spread(
                    [cell['adverse_mean'] - before['adverse_mean'] for cell, before in pairs],
                    '+.1f')])
    return markdown_table(['gain over the source', *conditions, 'adverse mean'], lines)


CLAIM_TABLES: dict[str, Callable[[Figures], str]] = {
    '1': _backbones, '2': _prompts, '3': _randomization,
    '4': _adaptation}
