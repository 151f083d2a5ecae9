r"""What a fitted probe makes of tokens: logits, likelihoods, readings, and what is misread.

A reading keeps everything that one probe says of one set of utterances, so that likelihoods are
looked at as a matrix, texts line by line, and two sets of tokens utterance by utterance.

SLMTokBench [Zhang et al. 2024, SpeechTokenizer], §2. Notebook 30. Leaves out: judges of decoded
speech. Read next: ``slmtokbench.py``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from codec_lib.data.transcripts import GAP, Symbols
from codec_lib.losses.ctc import ctc_greedy, frames_needed
from codec_lib.shapes import check_shape

from .ctc_network import CtcProbe
from .ctc_probe import Prepared, ProbeSettings, fit_probe, read_logits, spelt
from .errors import align_symbols, symbol_errors
from .mutual_information import likelihood_matrix, text_information


@dataclass(frozen=True)
class Reading:
    r"""What a probe says of N utterances.

    Attributes
    ----------
    probe, part, symbols
        The probe, what it read, and the symbols it names.
    logits
        Of each utterance, (F, V).
    table
        Log-likelihood of every text for every recording, (N, N), nats; see ``likelihood_matrix``.
    row
        Fields of ``text_information`` and ``symbol_errors``, and ``train_loss``.
    """

    probe: CtcProbe
    part: Prepared
    symbols: Symbols
    logits: list[Tensor]
    table: Tensor
    row: dict[str, float]

    @property
    def lengths(self) -> list[int]:
        r"""Symbols of each text."""
        return [len(text) for text in self.part.targets]

    @property
    def table_by_symbol(self) -> Tensor:
        r"""Likelihoods (N, N), each divided by the length of its text: nats a symbol."""
        return self.table / torch.tensor(self.lengths)

    def texts(self, temperature: float = 1.0) -> list[tuple[list[str], list[str]]]:
        r"""Return what is read and what is right, symbols of each utterance.

        Parameters
        ----------
        temperature
            What logits are divided by; it changes nothing.
        """
        return spelt([one / temperature for one in self.logits], self.part, self.symbols)

    def at_temperature(self, temperature: float) -> Tensor:
        r"""Return the likelihoods (N, N) with all logits divided by a temperature above 0."""
        return likelihood_matrix([one / temperature for one in self.logits], self.part.targets)


def read_tokens(
    seen: Prepared,
    part: Prepared,
    symbols: Symbols,
    sizes: Sequence[int],
    start: Sequence[Tensor] | None = None,
    settings: ProbeSettings | None = None,
) -> Reading:
    r"""Train a probe on tokens and let it read others.

    Parameters
    ----------
    seen, part
        What it learns from and what it reads; see ``ctc_probe.prepare``.
    symbols
        What it names.
    sizes
        Of the codebooks.
    start
        Tables that the embeddings start from; None for random ones.
    settings
        Of the probe.

    Returns
    -------
    Reading
        Of all of ``part``.
    """
    probe, loss = fit_probe(seen, symbols, sizes, start, settings)
    logits = read_logits(probe, part.inputs)
    table = likelihood_matrix(logits, part.targets)
    found = text_information(table, [len(text) for text in part.targets], part.targets)
    row = {"train_loss": loss, **found}
    row |= symbol_errors(spelt(logits, part, symbols), symbols)
    return Reading(probe, part, symbols, logits, table, row)


def shuffled(part: Prepared, seed: int = 0) -> Prepared:
    r"""Return utterances whose tokens belong to another text: what a probe finds there is nothing.

    Every text gets the tokens of another utterance that has enough frames for it; its own where no
    other is left.

    Parameters
    ----------
    part
        The utterances.
    seed
        Of the choice.
    """
    draw = torch.Generator().manual_seed(seed)
    free = torch.randperm(len(part.inputs), generator=draw).tolist()
    needed = [frames_needed(target) for target in part.targets]
    inputs = list(part.inputs)
    for index in sorted(range(len(needed)), key=lambda one: -needed[one]):  # the neediest first
        fits = [one for one in free if len(part.inputs[one]) >= needed[index]]
        chosen = next((one for one in fits if one != index), index)
        inputs[index] = part.inputs[chosen]
        free.remove(chosen)
    return replace(part, inputs=inputs)


def code_centroids(codes: Tensor, features: Tensor, size: int) -> Tensor:
    r"""Return the mean feature of the frames that bear each code: one step of k-means.

    Parameters
    ----------
    codes
        Shape (F,), int64, below ``size``.
    features
        Shape (F, D).
    size
        Codes N.

    Returns
    -------
    Tensor
        Shape (N, D); the mean of all frames for a code that none bears.

    Examples
    --------
    >>> code_centroids(torch.tensor([0, 0, 2]), torch.tensor([[1.0], [3.0], [5.0]]), 3).flatten()
    tensor([2., 3., 5.])
    """
    frames = check_shape(codes, "F", name="codes")["F"]
    width = check_shape(features, "F D", name="features", F=frames)["D"]
    sums = torch.zeros(size, width).index_add_(0, codes, features.float())
    often = torch.bincount(codes, minlength=size)[:, None]  # (N, 1)
    return torch.where(often > 0, sums / often.clamp_min(1), features.float().mean(0))


def probe_listener(
    extract: Callable[[Tensor], Tensor], reading: Reading
) -> Callable[[Sequence[Tensor]], list[str]]:
    r"""Return a fitted probe as a recogniser for ``judges.WordsJudge``.

    Parameters
    ----------
    extract
        Function from a waveform (1, 1, T) to the tokens (1, F, K) that the probe has learnt.
    reading
        Of characters.

    Returns
    -------
    Callable
        From waveforms (1, T) to texts.
    """

    def listen(wavs: Sequence[Tensor]) -> list[str]:
        logits = read_logits(reading.probe, [extract(wav[None])[0] for wav in wavs])
        found = [ctc_greedy(one[None], torch.tensor([len(one)]))[0] for one in logits]
        return ["".join(reading.symbols.decode(one)).replace(GAP, " ") for one in found]

    return listen


def misread_lines(read: Sequence[str], right: Sequence[str]) -> tuple[str, str, str]:
    r"""Lay what is read over what is said, one letter under the other.

    Returns
    -------
    tuple[str, str, str]
        Read, marks under what differs, said; ``·`` where a letter is missing, spaces for ``|``.

    Examples
    --------
    >>> print(*misread_lines("a|sad", "a|sand"), sep="\n")
    a sa·d
        ^
    a sand
    """
    pairs = align_symbols(read, right)
    rows = (
        "".join(one or "·" for one in row).replace(GAP, " ") for row in zip(*pairs, strict=True)
    )
    above, below = rows if pairs else ("", "")
    return above, "".join(" " if one == two else "^" for one, two in pairs).rstrip(), below


def misread_shares(
    texts: Iterable[tuple[Sequence[str], Sequence[str]]], groups: Mapping[str, Collection[str]]
) -> dict[str, float]:
    r"""Return the share of each group of symbols that is changed or left out.

    Parameters
    ----------
    texts
        What is read and what is right, of each utterance.
    groups
        Name to symbols.

    Examples
    --------
    >>> misread_shares([("sed", "sand")], {"vowels": "ae", "others": "snd"})
    {'vowels': 1.0, 'others': 0.3333333333333333}
    """
    said: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for read, right in texts:
        for one, other in align_symbols(read, right):
            for name, members in groups.items():
                if other and other in members:
                    said[name] += 1
                    missed[name] += one != other
    return {name: missed[name] / max(1, said[name]) for name in groups}
