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
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.data.results import markdown_table
from ptdiffseg_ros.model.defaults import CATEGORY_TEMPLATES, SCENE_PROMPTS
from ptdiffseg_ros.train.settings import TrainConfig

ROW_TITLES = {
    'diffusion': 'text-to-image diffusion (ours), frozen',
    'random weights': 'the same UNet, random weights, frozen',
    'masked autoencoder': 'the same UNet, masked autoencoder, frozen',
    'end to end': 'the same UNet, end to end with labels',
    'SegFormer-B0': 'SegFormer-B0, end to end with labels'}
METHOD_TITLES = {
    'pseudo labels': 'pseudo labels (our reading of the paper)', 'TENT': 'TENT (head)',
    'CoTTA': 'CoTTA (head)', 'self-training': 'self-training (head)'}
INERT = 0.05  # mIoU; a method that changes every condition by less has no effect
EARLIER_SCHEDULE = 'a plateau and linear decay'  # of a masked autoencoder that names none
_TIMESTEP = f't = {TrainConfig.timestep}'


def spread(values: Sequence[float], form: str = '.1f') -> str:
    """Give the mean and, where there are several that differ, the least and the greatest."""
    mean, least, most = (
        format(round(v) if form == 'd' else v, form)
        for v in (float(np.mean(values)), min(values), max(values)))
    return mean if least == most else f'{mean} ({least} to {most})'


def title(variant: str) -> str:
    """Name a variant in a table."""
    return ROW_TITLES.get(variant, METHOD_TITLES.get(variant, variant))


def _table(figures: Figures, claim: str,
           more: dict[str, tuple[str, Callable[[Figures], float]]] | None = None) -> str:
    """Lay out mIoU by condition and the adverse mean with its spread, and columns by a format."""
    rows = miou_cells(figures, claim)
    conditions = list(next(iter(rows.values()))[0]['miou'])
    lines = []
    for variant, cells in rows.items():
        means = [float(np.mean([cell['miou'][c] for cell in cells])) for c in conditions]
        lines.append([
            title(variant), str(len(cells)), *(f'{m:.1f}' for m in means),
            spread([cell['adverse_mean'] for cell in cells]),
            *(spread([take(cell) for cell in cells], form)
              for form, take in (more or {}).values())])
    head = ['mIoU, %', 'seeds', *conditions, 'adverse mean', *(more or {})]
    return markdown_table(head, lines)


def precisions(figures: Figures) -> str:
    """Name the number formats that rows were trained in."""
    parts = []
    for row, seeds in figures['cells']['1'].items():
        names = [cell['precision'] for cell in seeds.values() if 'precision' in cell]
        counts = [f'{name} ({names.count(name)} of {len(names)} seeds)'
                  for name in sorted(set(names))]
        if counts:
            parts.append(f'{ROW_TITLES[row]}: {", ".join(counts)}')
    return f'Training in float32{", except " if parts else ""}{"; ".join(parts)}.'


def _schedules(figures: Figures) -> str:
    """Name the schedules that the masked autoencoder has learned by."""
    cells = figures['cells']['1'].get('masked autoencoder', {}).values()
    return ' or '.join(sorted({cell.get('schedule', EARLIER_SCHEDULE) for cell in cells}))


_ABOUT_BACKBONES = (
    '**The diffusion model has seen the target weathers without labels.** It was pretrained on '
    'captioned frames of every weather, drawn by the renderer of the test frames. The paper uses '
    'a model of web images.\n\n'
    '* SegFormer-B0 ([arXiv 2105.15203](https://arxiv.org/abs/2105.15203)) starts from random '
    'weights, with GroupNorm and levels normalised per image. The published model starts from '
    'ImageNet weights.\n'
    '* The share kept is adverse mean over clear mIoU. A model that is weak in clear weather '
    'reaches a high share more easily.\n'
    '* There are few test frames, and one pretraining. Brackets cover neither.')
# Of the committed figures; benchmarks/notebook/claims_runs.md has the other run.
_REPEATED = (
    '\n* An earlier run, at another commit on another machine, had 46.4 in the adverse mean for '
    'the first seed of SegFormer-B0, in place of 48.5 '
    '([notebook](../../benchmarks/notebook/claims_runs.md)). The three seeds differ by 1.1.')


def _backbones(figures: Figures) -> str:
    repeated = '' if figures['preset'] == 'quick' else _REPEATED
    table = f'{_ABOUT_BACKBONES}{repeated}\n\n' + _table(figures, '1', {
        'drop from clear': ('.1f', lambda cell: cell['miou']['clear'] - cell['adverse_mean']),
        'share kept, %': ('.1f', verdicts.kept),
        'learning rate': ('.3g', lambda cell: cell['rate'])})
    budget = figures['budget']
    table += (
        f'\n\n* The masked autoencoder was trained for {budget["masked_steps"]} steps of '
        f'{budget["masked_batch"]} frames on {budget["masked_frames"]} frames, at a learning rate '
        f'with {_schedules(figures)}. Networks trained end to end start from random weights and '
        f'take {budget["end_to_end_steps"]} steps.\n* {precisions(figures)}\n'
        '* Unlabelled adverse frames are part of the pretraining of the diffusion model (with '
        'captions), of the masked autoencoder, and of the autoencoder that all rows but '
        'SegFormer-B0 use. A tenth of them are mixtures. No row has seen labels of adverse '
        'weather, and none has seen the style.\n'
        '* Random weights differ between seeds. Diffusion model and masked autoencoder are one '
        'pretraining each.\n'
        '* Learning rates are chosen on the validation split by the mean of all conditions, with '
        f'another seed; end to end with {budget["sweep_share"]:g} of the steps. If the best rate '
        'was the lowest or the highest, up to two more were tried.')
    if figures['preset'] == 'quick':
        table += (' A quick run trains these rows for less than the diffusion model, so they are '
                  'weaker than they should be.')
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
        table += (f'\n\nSegFormer-B0 with {budget["longer"]:g} times the steps, first seed. '
                  f'{_shorter(figures)}\n\n' + _table(
                      figures, '1 longer', {'share kept, %': ('.1f', verdicts.kept)}))
    if miou_cells(figures, '1 ablations'):
        table += ('\n\nInputs of the head, for the frozen backbones, at their learning rates '
                  'above:\n\n' + _table(
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
    """Say what the network that was trained for longer had after the usual steps."""
    cell = figures['cells']['1'].get(CONVERGING, {}).get('0')
    return '' if cell is None else (
        f'With the usual steps this seed reaches {cell["miou"]["clear"]:.1f} in clear weather, '
        f'{cell["adverse_mean"]:.1f} in adverse weather, and keeps {verdicts.kept(cell):.1f} %:')


_ABOUT_POOLS = ('"On" and the rows of lambda draw from the scene prompts of the five weathers, as '
                'in the paper. A pool of n has the clear prompt and n - 1 others. Words of the '
                'source: the clear prompt in other words. Words of things: the clear prompt with '
                "objects that may be absent. Without the targets' words: no prompt names an "
                'adverse weather, and "on" draws from words of the source.')
_ABOUT_CHANGED = ('Pixels changed: the share of pixels whose class changes under another scene '
                  'prompt; mean over all conditions and five prompts that no pool contains.')


def _weathered() -> int:
    """Count the category templates that name a weather."""
    return sum(template.startswith(SCENE_PROMPTS) for template in CATEGORY_TEMPLATES)


def _prompts(figures: Figures) -> str:
    """Return the table, and how many pixels another scene prompt changes."""
    variants = figures['cells']['2']
    reach = [[f'{_TIMESTEP} (both)' if name == 'both' else name,
              spread([cell['agreement']['changed_percent'] for cell in seeds.values()], '.2f')]
             for name, seeds in variants.items() if all('agreement' in c for c in seeds.values())]
    table = (f'{_table(figures, "2")}\n\nThe timestep is {_TIMESTEP} unless a row names another. '
             'A matching scene prompt names the weather of the frame, a wrong one another '
             'weather. Both use the head of "both", which was trained under the clear prompt.\n\n'
             f'Category prompts are means over {len(CATEGORY_TEMPLATES)} templates, and '
             f'{_weathered()} of these name a weather. So the row "category" contains words of '
             'scenes as well: the comparison does not separate the two kinds of prompt.')
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


_MEANINGS = (
    ('source', 'the segmenter without adaptation, with its layout denoiser'),
    ('head alone', 'without the layout denoiser, which is not part of the paper'),
    ('prompt', 'ours, with the settings for frames of many streets'),
    ('pseudo labels', "our reading of the paper's objective; its code is not public"),
    ('labelled prompt', 'the same prompt tuned with labels, for comparison'),
    ('(head)', 'the method changes the segmentation head, or its normalisation'),
    ('online', 'frames of the stream, each predicted before it is learned from'),
    ('tuned values', 'how many numbers the method changes'),
    ('state memory', 'between frames, the latest frames included'),
    ('gradient memory', 'for one step'),
    ('learning', f'time for a frame without its prediction, frames {TIMED} to {2 * TIMED}'))
_COMPARABILITY = (
    'The comparison favours the prompt. Its objective was developed in many trials on the '
    'validation split. The other methods had a sweep of the learning rate there, on two '
    'conditions. The prompt alone knows class shares and latents of the source, starts from the '
    'sentence of the recognised weather, and validates on held-out frames.')


def _adaptation(figures: Figures) -> str:
    budget = figures['budget']
    table = _table(figures, '4', {
        'online': ('.1f', lambda cell: float(np.mean(list(cell['online'].values())))),
        'tuned values': ('d', lambda cell: cell['trainable']),
        'state memory, KiB': ('.0f', lambda cell: cell['state_bytes'] / 1024),
        'gradient memory, MiB': ('.1f', lambda cell: cell['step_bytes'] / 2**20),
        'learning, in forward passes': ('.1f', lambda cell: cell['learning_in_passes']),
        'learning rate': ('g', lambda cell: cell.get('rate', 0.0))})
    parts = [
        f'Each method sees {budget["stream_frames"]} unlabelled frames of a condition once, '
        f'starting from the source model, and is measured on {budget["held_out"]} other frames. '
        f'The prompt and the labelled prompt learn from {AdaptationConfig.steps} frames at most '
        '(frames are reused). The others take one step every other frame.', _COMPARABILITY,
        markdown_table(['row or column', 'meaning'], _MEANINGS), *_earlier(figures), table,
        gains(figures), *_inert(figures)]
    cost = figures['cells']['4'].get('cost', {}).get('0')
    if cost:
        parts.append(markdown_table(
            ['tuning on a frame, in forward passes of it', 'a learned prompt', 'a buffered frame'],
            [[cost['step_in_forward_passes'], f'{cost["prompt_file_bytes"]} bytes',
              f'{cost["buffer_bytes_per_frame"]} bytes']]))
    return '\n\n'.join(parts)


def _earlier(figures: Figures) -> list[str]:
    """Say which methods were measured before their present settings."""
    cells = figures['cells']['4']
    names = earlier(cells)
    commits = dict.fromkeys(cell.get('commit', figures.get('commit'))
                            for name in names for cell in cells[name].values())
    return [f'**Measured with earlier settings (commit {", ".join(commits)}) and not repeated: '
            f'{", ".join(names)}.**'] if names else []


def _inert(figures: Figures) -> list[str]:
    """Say which methods changed nothing at the learning rate that validation chose."""
    cells = figures['cells']['4']
    source = cells.get('source', {})
    names = [METHOD_TITLES[name] for name in METHOD_TITLES if cells.get(name) and all(
        seed in source and abs(miou - source[seed]['miou'][c]) < INERT
        for seed, cell in cells[name].items() for c, miou in cell['miou'].items())]
    return [f'{", ".join(names)}: no effect at the best validated learning rate.'] if names else []


def gains(figures: Figures) -> str:
    """Lay out what each method gains over the source in each condition."""
    variants = figures['cells']['4']
    source = variants.get('source', {})
    lines, conditions = [], []
    for name, seeds in variants.items():
        pairs = [(cell, source[seed]) for seed, cell in seeds.items()
                 if name not in ('source', *NOT_MIOU) and seed in source]
        if pairs:
            conditions = list(pairs[0][0]['miou'])
            lines.append([title(name), *(
                spread([cell['miou'][c] - before['miou'][c] for cell, before in pairs], '+.1f')
                for c in conditions), spread(
                    [cell['adverse_mean'] - before['adverse_mean'] for cell, before in pairs],
                    '+.1f')])
    return markdown_table(['gain over the source', *conditions, 'adverse mean'], lines)


CLAIM_TABLES: dict[str, Callable[[Figures], str]] = {
    '1': _backbones, '2': _prompts, '3': _randomization,
    '4': _adaptation}
