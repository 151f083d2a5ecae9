r"""Write codes: the first codebook frame by frame, then the others, one after the other.

As released [code of SpeechTokenizer's authors, ``models/uslm.py``]: an item ends when the end is
drawn or is likeliest, or at the length guard; in codebooks 2 to K nothing is drawn. Notebook: 40.
Leaves out: how a frame is continued (``prefix.py``). Read next: ``speaking.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .layers import real
from .prefix import Writer
from .sampling import Sampling, draw_codes, nearest_codes
from .unified import AutoregressiveModel, Batch, NonAutoregressiveModel, UnifiedSpeechLanguageModel


@torch.no_grad()
def write_first(
    model: AutoregressiveModel,
    batch: Batch,
    most: Sequence[int],
    sampling: Sampling | None = None,
    seed: int = 0,
    use_cache: bool = True,
    watch: Callable[[Tensor], None] | None = None,
    start: Tensor | None = None,
) -> list[Tensor]:
    r"""Write the first codebook, Eq. (9).

    Parameters
    ----------
    model
        In eval mode.
    batch
        Texts (of the prompt and of what is to be said) and prompts as codes, perhaps of no frame.
    most
        Frames at most, for each item.
    sampling
        How codes are drawn.
    seed
        Item b draws by seed + b.
    use_cache
        False runs everything again at each step, and is only slower.
    watch
        Called with the logits (B, N + 1) of every step, e.g. for pictures.
    start
        As in ``prefix.Writer``.

    Returns
    -------
    list[Tensor]
        What was written behind each prompt, (F,) int64; empty where the end came first.
    """
    sampling = sampling or Sampling()
    generators = [torch.Generator().manual_seed(seed + item) for item in range(len(batch.text))]
    limit = torch.tensor(list(most), device=batch.text.device)
    given = (batch.text, batch.text_lengths, batch.codes[:, 0], batch.code_lengths)
    writer = Writer(model, *given, max(most), use_cache, start)
    done = torch.zeros_like(limit).bool()
    logits, lengths, written = model.head(writer.first()), torch.zeros_like(limit), []
    for step in range(max(most)):
        if watch is not None:
            watch(logits)
        codes = draw_codes(logits, sampling, generators)
        done |= (codes == model.end) | (logits.argmax(-1) == model.end) | (limit <= step)
        if bool(done.all()):
            break
        lengths += ~done
        written.append(codes.masked_fill(done, 0))
        logits = model.head(writer.following(written[-1]))
    if not written:
        return [batch.codes.new_zeros(0) for _ in range(len(batch.text))]
    whole = torch.stack(written, dim=1)
    return [row[:length] for row, length in zip(whole, lengths.tolist(), strict=True)]


@torch.no_grad()
def fill_others(
    model: NonAutoregressiveModel, batch: Batch, prompt: Tensor, vectors: Tensor | None = None
) -> Tensor:
    r"""Fill in codebooks 2 to K, Eq. (10).

    Parameters
    ----------
    model
        In eval mode.
    batch
        Texts and codes (B, K, F): prompts with all codebooks, behind them the first codebook alone.
    prompt
        Frames (B,) of each prompt. Where the model is as released, they enter with the codebooks
        below the one asked for only, as all other frames do.
    vectors
        What the codec's codes stand for, (K, N, D): takes the codes nearest to what is expected,
        see ``sampling.nearest_codes``. None takes the likeliest, as released.

    Returns
    -------
    Tensor
        Codes (B, K, F) with all codebooks.
    """
    codes = batch.codes.clone()
    kept = real(prompt, codes.shape[2])
    for codebook in range(1, codes.shape[1]):
        now = replace(batch, codes=codes)
        logits = model(now, codebook, None if model.shift else prompt)
        chosen = logits.argmax(-1)
        if vectors is not None:
            chosen = nearest_codes(logits, vectors[codebook])
        codes[:, codebook] = torch.where(kept, codes[:, codebook], chosen)
    return codes


@torch.no_grad()
def generate(
    model: UnifiedSpeechLanguageModel,
    batch: Batch,
    most: Sequence[int],
    sampling: Sampling | None = None,
    seed: int = 0,
    use_cache: bool = True,
    start: Tensor | None = None,
    vectors: Tensor | None = None,
) -> list[Tensor]:
    r"""Write all codebooks behind prompts.

    Parameters
    ----------
    model
        In eval mode.
    batch
        Texts of prompt and target, and prompts as codes (B, K, P).
    most, sampling, seed, use_cache, start
        As in ``write_first``.
    vectors
        As in ``fill_others``.

    Returns
    -------
    list[Tensor]
        For each item codes (K, F) int64 without the prompt.

    Raises
    ------
    ValueError
        If an item has no prompt and the model is as released, which cannot begin without one; or
        there is not one ``most`` above 0 for each item.
    """
    if len(most) != len(batch.text) or min(most) < 1:
        raise ValueError(f"most: got {list(most)}, expected a number above 0 for each item")
    if model.config.as_published and not bool(batch.code_lengths.all()):
        raise ValueError(
            "prompt: got an item without a prompt, expected at least one frame: the released model "
            "never learnt to predict the first code"
        )
    firsts = write_first(model.ar, batch, most, sampling, seed, use_cache, start=start)
    prompt, count = batch.code_lengths, model.config.num_quantizers
    lengths = prompt + torch.tensor([len(one) for one in firsts], device=prompt.device)
    codes = batch.codes.new_zeros(len(firsts), count, max(1, int(lengths.max())))
    for item, first in enumerate(firsts):
        at, end = int(prompt[item]), int(lengths[item])
        codes[item, :, :at] = batch.codes[item, :, :at]
        codes[item, 0, at:end] = first
    positions = None
    if start is not None:
        frames = torch.arange(codes.shape[2], device=start.device)
        behind = start[:, None] + model.config.pace * (frames - prompt[:, None])
        positions = torch.where(real(prompt, len(frames)), model.config.pace * frames, behind)
    whole = Batch(batch.text, batch.text_lengths, codes, lengths, positions)
    filled = fill_others(model.nar, whole, prompt, vectors)
    return [filled[i, :, int(prompt[i]) : int(lengths[i])] for i in range(len(firsts))]
