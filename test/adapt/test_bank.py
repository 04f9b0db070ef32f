# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The prompt bank saves and recalls prompts, survives file errors and refuses foreign files."""
from __future__ import annotations

import json
import os
from pathlib import Path
import pickle
import resource
import signal
import subprocess
import sys

from hypothesis import given, settings, strategies as st
from ptdiffseg_ros.adapt.bank import FORMAT, LearnedPrompt, PromptBank
from ptdiffseg_ros.adapt.errors import AdaptationError
import pytest
from safetensors.torch import save_file
import torch

MODEL, WIDTH, LAYERS = '0123abcd', 8, 7


def prompt(domain: str = 'fog', seed: int = 0, saved_s: float = 1.0, **changes) -> LearnedPrompt:
    tokens = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(seed))
    return LearnedPrompt(**{
        'tokens': tokens, 'domain': domain, 'model': MODEL, 'facts': {'steps': 50},
        'saved_s': saved_s, **changes})


@pytest.mark.parametrize(('shape', 'kind'), [
    ((5, WIDTH), 'shared'), ((LAYERS, 5, WIDTH), 'per layer')])
def test_a_prompt_comes_back_bit_for_bit(
        tmp_path: Path, shape: tuple[int, ...], kind: str) -> None:
    kept = prompt(tokens=torch.randn(shape))
    PromptBank(tmp_path, MODEL, WIDTH, layers=LAYERS).remember(kept)
    back = PromptBank(tmp_path, MODEL, WIDTH, layers=LAYERS).recall('fog')
    assert back is not None and torch.equal(back.tokens, kept.tokens)
    assert back.describe() == {**kept.describe(), 'tokens': list(shape), 'kind': kind}
    assert back.facts == {'steps': 50} and back.kind == kind


@pytest.mark.parametrize(('tokens', 'size'), [
    ((16, 77, 768), 4e6), ((16, 77, 1024), 6e6), ((6, 768), 2e4), ((7, 6, 128), 64 * 2**10)])
def test_prompts_of_every_backbone_fit_the_largest_file(
        tmp_path: Path, tokens: tuple[int, ...], size: float) -> None:
    path = prompt(tokens=torch.randn(tokens)).save(tmp_path / 'prompt.safetensors')
    assert LearnedPrompt.load(path).tokens.shape == tokens and path.stat().st_size < size


def test_a_prompt_file_can_be_copied_to_another_bank(tmp_path: Path) -> None:
    path = prompt().save(tmp_path / 'there' / 'fog.safetensors')
    carried = LearnedPrompt.load(path, MODEL, WIDTH)
    bank = PromptBank(tmp_path / 'here', MODEL, WIDTH)
    bank.remember(carried)
    assert bank.domains() == ['fog']


def test_a_bank_without_a_folder_keeps_prompts_in_memory() -> None:
    bank = PromptBank(None, MODEL, WIDTH)
    bank.remember(prompt())
    assert bank.recall('fog') is not None and bank.path('fog') is None


def test_shipped_prompts_serve_where_no_person_saved_one_and_are_only_read(
        tmp_path: Path) -> None:
    came, own = tmp_path / 'came', tmp_path / 'own'
    came_with = PromptBank(came, MODEL, WIDTH)
    for domain in ('fog', 'night', 'rain'):
        came_with.remember(prompt(domain, seed=1))
    (came / f'{MODEL}.snow.safetensors').write_bytes(b'damaged')
    before = {path: path.read_bytes() for path in came.iterdir()}
    bank = PromptBank(own, MODEL, WIDTH, shipped=came)
    bank.remember(prompt('fog', seed=2))
    bank.remember(prompt('night', seed=2, facts={'automatic': True}))
    bank.remember(prompt('dust', seed=2, facts={'automatic': True}))
    seeds = {'fog': 2, 'night': 1, 'rain': 1, 'dust': 2}
    assert bank.domains() == sorted(seeds)
    for domain, seed in seeds.items():
        assert torch.equal(bank.recall(domain).tokens, prompt(seed=seed).tokens)
    problem, = bank.problems
    assert 'snow' in problem
    bank.forget('fog')
    bank.forget('rain')
    assert torch.equal(bank.recall('fog').tokens, prompt(seed=1).tokens)
    assert bank.recall('rain') is not None
    assert {path: path.read_bytes() for path in came.iterdir()} == before


def test_prompts_of_other_models_in_the_same_folder_are_not_changed(tmp_path: Path) -> None:
    PromptBank(tmp_path, 'other', WIDTH).remember(prompt(model='other'))
    ours = PromptBank(tmp_path, MODEL, WIDTH)
    assert ours.domains() == [] and ours.problems == []
    ours.remember(prompt())
    assert PromptBank(tmp_path, 'other', WIDTH).domains() == ['fog']


@pytest.mark.parametrize(('change', 'words'), [
    ({'model': 'other'}, 'with the segmenter other, this one is 0123abcd'),
    ({'tokens': torch.zeros(5, 9)}, 'width 9, this model takes 8'),
    ({'tokens': torch.ones(3, 5, WIDTH)}, 'for 3 cross-attention layers, this model has 7'),
    ({'tokens': torch.full((5, WIDTH), float('nan'))}, 'not finite'),
    ({'tokens': torch.zeros(0, WIDTH)}, 'none'), ({'tokens': torch.zeros(5, WIDTH)}, 'all zero'),
    ({'tokens': torch.full((5, WIDTH), 1e38)}, 'too large')])
def test_a_prompt_of_a_wrong_shape_is_refused_and_the_old_one_stays(
        tmp_path: Path, change, words: str) -> None:
    bank = PromptBank(tmp_path, MODEL, WIDTH, layers=LAYERS)
    bank.remember(prompt())
    with pytest.raises(AdaptationError, match=words):
        bank.remember(prompt(seed=1, **change))
    kept = bank.recall('fog')
    assert kept is not None and torch.equal(kept.tokens, prompt().tokens)


@pytest.mark.parametrize('harm', ['cut', 'noise', 'pickle', 'foreign', 'nan', 'large', 'absent',
                                  'header', 'empty', 'huge', 'vector', 'batch'])
def test_a_damaged_file_is_refused_with_its_name(  # noqa: C901 (a branch for each kind of harm)
        tmp_path: Path, harm: str) -> None:
    path = tmp_path / 'fog.safetensors'
    prompt().save(path)
    if harm == 'cut':
        path.write_bytes(path.read_bytes()[:-10])
    elif harm == 'noise':
        path.write_bytes(os.urandom(500))
    elif harm == 'pickle':
        path.write_bytes(pickle.dumps({'tokens': 1}))
    elif harm == 'foreign':
        save_file({'tokens': torch.zeros(5, WIDTH)}, path)
    elif harm == 'nan':
        prompt(tokens=torch.full((5, WIDTH), float('nan'))).save(path)
    elif harm == 'large':
        prompt(tokens=torch.zeros(2**21 + 1, 1)).save(path)
    elif harm == 'empty':
        prompt(tokens=torch.zeros(0, WIDTH)).save(path)
    elif harm == 'vector':
        prompt(tokens=torch.ones(WIDTH)).save(path)
    elif harm == 'batch':
        prompt(tokens=torch.ones(1, LAYERS, 5, WIDTH)).save(path)
    elif harm == 'huge':
        prompt(tokens=torch.full((5, WIDTH), 1e38)).save(path)
    elif harm == 'absent':
        path.unlink()
    elif harm == 'header':
        save_file({'tokens': torch.zeros(5, WIDTH)}, path,
                  metadata={'format': FORMAT, 'prompt': '{"domain": "fog"}'})
    with pytest.raises(AdaptationError, match='fog.safetensors cannot be used'):
        LearnedPrompt.load(path)


def test_a_file_of_another_width_or_model_is_refused(tmp_path: Path) -> None:
    path = prompt().save(tmp_path / 'p.safetensors')
    with pytest.raises(AdaptationError, match='width 8, this model takes 768'):
        LearnedPrompt.load(path, width=768)
    with pytest.raises(AdaptationError, match='tuned with the segmenter 0123abcd, this one is x'):
        LearnedPrompt.load(path, model='x')
    LearnedPrompt.load(path, layers=16)  # shared tokens fit any number of layers


def test_tokens_for_another_number_of_layers_are_refused(tmp_path: Path) -> None:
    other = prompt(tokens=torch.randn(LAYERS, 5, WIDTH))
    bank = PromptBank(tmp_path, MODEL, WIDTH, layers=LAYERS)
    bank.remember(other)
    words = f'tokens for {LAYERS} cross-attention layers, this model has 16'
    with pytest.raises(AdaptationError, match=words):
        LearnedPrompt.load(bank.path('fog'), layers=16)
    again = PromptBank(tmp_path, MODEL, WIDTH, layers=16)
    assert not again.domains() and words in again.problems[0]
    with pytest.raises(AdaptationError, match=words):
        again.remember(other)


def test_a_file_of_another_format_is_refused_with_the_remedy_and_may_be_replaced(
        tmp_path: Path) -> None:
    bank = PromptBank(tmp_path, MODEL, WIDTH)
    path = bank.path('fog')
    assert path is not None
    header = {name: value for name, value in vars(prompt()).items() if name != 'tokens'}
    save_file({'tokens': prompt().tokens}, path, metadata={
        'format': 'ptdiffseg scene prompt 1', 'prompt': json.dumps(header)})
    with pytest.raises(AdaptationError) as refused:
        LearnedPrompt.load(path)
    for words in (str(path), "'ptdiffseg scene prompt 1'", repr(FORMAT), '`ptdiffseg adapt`'):
        assert words in str(refused.value)
    again = PromptBank(tmp_path, MODEL, WIDTH)
    assert not again.domains() and again.problems == [str(refused.value)]
    prompt().save(path)
    assert PromptBank(tmp_path, MODEL, WIDTH).domains() == ['fog']


def test_one_damaged_file_does_not_hide_the_others(tmp_path: Path) -> None:
    bank = PromptBank(tmp_path, MODEL, WIDTH)
    bank.remember(prompt('fog'))
    bank.remember(prompt('rain'))
    fog = bank.path('fog')
    assert fog is not None
    fog.write_bytes(b'gone')
    again = PromptBank(tmp_path, MODEL, WIDTH)
    assert again.domains() == ['rain']
    assert len(again.problems) == 1 and fog.name in again.problems[0]


def test_a_folder_that_cannot_be_written_is_reported_and_prompts_are_kept(
        tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('in the way')
    bank = PromptBank(tmp_path / 'file' / 'bank', MODEL, WIDTH)
    with pytest.raises(AdaptationError, match='cannot be saved.*still in use'):
        bank.remember(prompt())
    assert bank.recall('fog') is not None


def test_a_full_disk_keeps_the_old_file_and_the_new_prompt_in_memory(tmp_path: Path) -> None:
    bank = PromptBank(tmp_path, MODEL, WIDTH)
    bank.remember(prompt())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # a write fails in the middle
    try:
        with pytest.raises(AdaptationError, match='cannot be saved.*still in use'):
            bank.remember(prompt(seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    held = bank.recall('fog')
    assert held is not None and torch.equal(held.tokens, prompt(seed=1).tokens)
    assert [p.suffix for p in tmp_path.iterdir()] == ['.safetensors']
    kept = PromptBank(tmp_path, MODEL, WIDTH).recall('fog')
    assert kept is not None and torch.equal(kept.tokens, prompt().tokens)


SAVE_FOR_EVER = """
import sys
from pathlib import Path
import torch
from ptdiffseg_ros.adapt.bank import FORMAT, LearnedPrompt, PromptBank
bank = PromptBank(Path(sys.argv[1]), '0123abcd', 8)
number = 0
while True:
    number += 1
    bank.remember(LearnedPrompt(torch.full((77, 8), float(number)), 'fog', '0123abcd'))
    print(number, flush=True)
"""


def test_a_kill_during_a_save_leaves_a_valid_bank(tmp_path: Path) -> None:
    for saves in (1, 7, 30):
        with subprocess.Popen(
                [sys.executable, '-c', SAVE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE,
                text=True) as process:
            assert process.stdout is not None
            for _ in range(saves):
                number = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        bank = PromptBank(tmp_path, MODEL, WIDTH)
        kept = bank.recall('fog')
        assert kept is not None and bank.problems == []
        assert kept.tokens.min() == kept.tokens.max() >= number


# Ends at a given place of a save: before the file is written, with half of it, before it
# takes the old one's place.
END_IN_A_SAVE = """
import os
import sys
from pathlib import Path
import torch
from ptdiffseg_ros.adapt import bank

def half(path, content):
    write(path, content[:len(content) // 2])
    os._exit(9)

write = Path.write_bytes
if sys.argv[2] == 'half':
    Path.write_bytes = half
else:
    setattr(os, {'written': 'fsync', 'replace': 'replace'}[sys.argv[2]], lambda *_: os._exit(9))
prompts = bank.PromptBank(Path(sys.argv[1]), '0123abcd', 8)
prompts.remember(bank.LearnedPrompt(torch.ones(5, 8), 'fog', '0123abcd'))
"""


@pytest.mark.parametrize('place', ['half', 'written', 'replace'])
def test_an_exit_during_a_save_leaves_the_old_prompt_and_no_partial_file(
        tmp_path: Path, place: str) -> None:
    PromptBank(tmp_path, MODEL, WIDTH).remember(prompt())
    ended = subprocess.run(
        [sys.executable, '-c', END_IN_A_SAVE, str(tmp_path), place], check=False)
    assert ended.returncode == 9
    left, = tmp_path.glob('.*')
    again = PromptBank(tmp_path, MODEL, WIDTH)
    kept = again.recall('fog')
    assert kept is not None and torch.equal(kept.tokens, prompt().tokens) and not again.problems
    assert left.exists(), 'another process might be writing it'
    os.utime(left, (0, 0))
    PromptBank(tmp_path, MODEL, WIDTH)
    assert [path.name for path in tmp_path.iterdir()] == [again.path('fog').name]


def test_a_renamed_copy_is_ignored_and_reported(tmp_path: Path) -> None:
    bank = PromptBank(tmp_path, MODEL, WIDTH)
    bank.remember(prompt(saved_s=1.0))
    copy = tmp_path / f'{MODEL}.fog backup.safetensors'
    prompt(seed=1, saved_s=2.0).save(copy)
    again = PromptBank(tmp_path, MODEL, WIDTH)
    kept = again.recall('fog')
    assert kept is not None and torch.equal(kept.tokens, prompt().tokens)
    assert again.problems == [problem for problem in again.problems
                              if f'{copy} should be called' in problem] != []


def test_a_removed_prompt_is_deleted_from_the_disk(tmp_path: Path) -> None:
    bank = PromptBank(tmp_path, MODEL, WIDTH)
    bank.remember(prompt())
    bank.forget('fog')
    bank.forget('rain')  # which was never there
    assert not bank.domains() and not list(tmp_path.iterdir())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=20), min_size=2, max_size=2, unique=True))
def test_every_domain_name_has_its_own_file_inside_the_folder(names: list[str]) -> None:
    names = [n.encode('utf-8', 'ignore').decode() or 'x' for n in names]
    bank = PromptBank(Path('/bank'), MODEL, WIDTH)
    one, two = (bank.path(name) for name in names)
    assert one is not None and two is not None
    assert one.parent == Path('/bank') == one.resolve().parent
    assert (one == two) == (names[0] == names[1])


def test_adaptation_takes_over_what_a_person_has_put_into_the_folder_since(
        tmp_path: Path) -> None:
    tuned, imported = prompt(seed=4, facts={'automatic': True}), prompt(seed=3)
    for change in (lambda bank: bank.remember(tuned), lambda bank: bank.forget('fog')):
        bank = PromptBank(tmp_path, MODEL, WIDTH)
        bank.remember(tuned)
        PromptBank(tmp_path, MODEL, WIDTH).remember(imported)
        change(bank)
        for kept in (bank.recall('fog'), PromptBank(tmp_path, MODEL, WIDTH).recall('fog')):
            assert kept is not None and torch.equal(kept.tokens, imported.tokens)
        bank.forget('fog')
        assert PromptBank(tmp_path, MODEL, WIDTH).domains() == []


def test_a_prompt_that_another_node_has_written_since_is_kept(tmp_path: Path) -> None:
    ours, theirs = (prompt(seed=seed, facts={'automatic': True}) for seed in (4, 5))
    bank = PromptBank(tmp_path, MODEL, WIDTH)
    bank.remember(ours)
    PromptBank(tmp_path, MODEL, WIDTH).remember(theirs)
    bank.forget('fog')
    for kept in (bank.recall('fog'), PromptBank(tmp_path, MODEL, WIDTH).recall('fog')):
        assert kept is not None and torch.equal(kept.tokens, theirs.tokens)


def test_a_prompt_that_cannot_be_written_does_not_keep_others_from_it(tmp_path: Path) -> None:
    bank = PromptBank(tmp_path / 'bank', MODEL, WIDTH)
    (tmp_path / 'bank').write_text('')
    for domain in ('fog', 'night'):
        with pytest.raises(AdaptationError, match='cannot be saved'):
            bank.remember(prompt(domain))
    (tmp_path / 'bank').unlink()
    bank.path('fog').mkdir(parents=True)
    with pytest.raises(AdaptationError, match='fog.safetensors'):
        bank.save_unsaved()
    assert bank.unsaved == {'fog'}
    assert LearnedPrompt.load(bank.path('night')).domain == 'night'


def test_all_prompts_that_could_not_be_written_are_written_later(tmp_path: Path) -> None:
    bank = PromptBank(tmp_path / 'bank', MODEL, WIDTH)
    (tmp_path / 'bank').write_text('')  # where the folder should be
    for domain in ('fog', 'night'):
        with pytest.raises(AdaptationError, match='cannot be saved'):
            bank.remember(prompt(domain))
    with pytest.raises(AdaptationError, match='cannot be saved'):
        bank.save_unsaved()
    assert bank.unsaved == {'fog', 'night'}
    (tmp_path / 'bank').unlink()
    bank.remember(prompt('rain'))
    assert bank.unsaved == {'fog', 'night'}
    bank.save_unsaved()
    assert not bank.unsaved
    assert PromptBank(tmp_path / 'bank', MODEL, WIDTH).domains() == ['fog', 'night', 'rain']


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'bank').write_text('')
    with pytest.raises(AdaptationError, match='is no folder'):
        PromptBank(tmp_path / 'bank', MODEL, WIDTH)
