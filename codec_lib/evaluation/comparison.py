r"""Several codecs on the same speech: reconstruction by number of codebooks, content by codebook.

What the card of a shipped codec reports: the codec beside its untrained self and beside a twin that
was trained without one thing, all measured in one run. Notebook: 10_speechtokenizer. Leaves out:
seeds and verdicts; one run of one seed shows a difference, not that it repeats.
Read next: ``speed.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from codec_lib.codecs.base import Codec
from codec_lib.data import Corpus

from .codec_probe import probe_codebooks, read_codebooks
from .frame_rates import rate_scores, summarise_rates
from .reconstruction import METRICS, evaluate_codec
from .results import summarise

UNTRAINED = "untrained:"
"""Before a codec's name: the same network with the random weights it would start from."""
CUT = "cut:"
"""Before a codec's name: a codec of fixed rate, cut by the scheduler without having learnt it."""


def untrained(codec: Codec, seed: int = 0) -> Codec:
    r"""Return a codec of the same config with random weights, in eval mode.

    Parameters
    ----------
    codec
        Only its class and config are used.
    seed
        Of the weights; torch's own random state is left as it was.

    Examples
    --------
    >>> import codec_lib
    >>> untrained(codec_lib.build("speechtokenizer", "smoke")).training
    False
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(codec)(codec.config).eval()


def named_codecs(arguments: Sequence[str]) -> dict[str, Codec]:
    r"""Load codecs by label, for use.

    Parameters
    ----------
    arguments
        ``[LABEL=]NAME``, shipped or a file; ``untrained:`` and ``cut:`` before a name say how it is
        changed.

    Returns
    -------
    dict[str, Codec]
        In eval mode, weight norm folded.

    Raises
    ------
    ValueError
        If there is no such checkpoint, or two have one label.
    """
    from codec_lib import hub
    from codec_lib.codecs.registry import with_rate

    models = {}
    for label, name in labelled(arguments).items():
        changes, marks = [], {UNTRAINED: untrained, CUT: with_rate}
        while mark := next((mark for mark in marks if name.startswith(mark)), ""):
            changes.append(marks[mark])
            name = name.removeprefix(mark)
        model = hub.load(name, fold=False)
        for change in reversed(changes):
            model = change(model)
        models[label] = model.fold_weight_norm()
    return models


def labelled(arguments: Sequence[str]) -> dict[str, str]:
    r"""Return label to name of ``[LABEL=]NAME``; ValueError where two have one label.

    Examples
    --------
    >>> labelled(["runs/a/final.safetensors", "b=runs/b/final.safetensors"])
    {'final': 'runs/a/final.safetensors', 'b': 'runs/b/final.safetensors'}
    """
    found: dict[str, str] = {}
    for argument in arguments:
        label, _, name = argument.rpartition("=")
        label = label or Path(name.rpartition(":")[2]).stem
        if label in found:
            raise ValueError(f"names: got the label {label!r} twice; hint: LABEL={name}")
        found[label] = name
    return found


def compare_codecs(
    codecs: Mapping[str, Codec],
    speech: Corpus | None = None,
    n_q: Sequence[int] = (1, 2, 4, 8),
    max_utterances: int | None = None,
    max_seconds: float | None = 6.0,
    aligned: tuple[Corpus, Corpus] | None = None,
    token_rates: Sequence[float] = (),
    schemes: Sequence[str] = ("scheduled",),
    spoken: tuple[Corpus, Sequence[Corpus], Sequence[str]] | None = None,
    keep: Callable[[list[dict[str, Any]]], object] = lambda rows: None,
) -> list[dict[str, Any]]:
    r"""Measure several codecs alike.

    Parameters
    ----------
    codecs
        Name to codec, in eval mode, all at the corpora's sample rate.
    speech
        Speech that none was trained on, to reconstruct; None leaves reconstruction out.
    n_q, max_utterances, max_seconds
        As in ``evaluate_codec``; counts that a codec does not have are left out.
    aligned, spoken
        Arguments of ``probe_codebooks`` (training and test part, with phoneme times) and of
        ``read_codebooks`` (training part, tests, symbols). None leaves the probe out.
    token_rates, schemes
        As in ``rate_scores``; rates that a codec does not have are left out. With any, codecs are
        compared by rate, whatever ``n_q``; the first at the first scheme is subtracted from others.
    keep
        Called with all rows so far after every codec.

    Returns
    -------
    list[dict[str, Any]]
        Rows with ``codec`` and ``measure``: ``"reconstruction"`` (the fields of
        ``evaluate_codec``), ``"rates"`` (those of ``summarise_rates``), ``"difference"`` (the same
        metrics, less those of the reference at that rate, utterance by utterance), ``"phonemes"``
        (those of ``probe_codebooks``) or ``"reading"`` (those of ``read_codebooks``).
    """
    rows: list[dict[str, Any]] = []
    has = {name: _rates_of(name, codec, token_rates) for name, codec in codecs.items()}
    by_rate: dict[str, dict] = {}
    for name, codec in codecs.items():
        if speech is not None and token_rates:
            scores = rate_scores(codec, speech, has[name], schemes, max_utterances, max_seconds)
            by_rate[name] = {cut: by_metric for cut, (by_metric, _) in scores.items()}
            found = summarise_rates(codec, scores)
            rows += [{"codec": name, "measure": "rates", **row} for row in found]
        elif speech is not None:
            counts = [count for count in n_q if count <= codec.num_quantizers]
            found = evaluate_codec(codec, speech, counts, max_utterances, max_seconds)
            rows += [{"codec": name, "measure": "reconstruction", **row} for row in found]
        if aligned is not None:
            found = probe_codebooks(codec, *aligned)
            rows += [{"codec": name, "measure": "phonemes", **row} for row in found]
        if spoken is not None:
            found = read_codebooks(codec, *spoken)
            rows += [{"codec": name, "measure": "reading", **row} for row in found]
        keep(rows)
    return rows + _differences(by_rate)


def _rates_of(name: str, codec: Codec, token_rates: Sequence[float]) -> list[float]:
    """Return those of the rates that a codec has, at least one of any."""
    has = [rate for rate in token_rates if codec.slowest_rate <= rate <= codec.frame_rate]
    if token_rates and not has:
        own = f"{codec.slowest_rate:g} to {codec.frame_rate:g}"
        raise ValueError(f"{name}: got rates {list(token_rates)}, expected some of {own} Hz")
    return has


def _differences(by_rate: Mapping[str, Mapping[tuple[float, str], Mapping]]) -> list[dict]:
    """Subtract the first codec's first scheme at each rate from everything else at that rate."""
    first = next(iter(by_rate), "")
    reference: dict[float, tuple[str, Mapping]] = {}
    for (rate, scheme), scores in by_rate.get(first, {}).items():
        reference.setdefault(rate, (scheme, scores))
    rows = []
    for name, cuts in by_rate.items():
        for (rate, scheme), scores in cuts.items():
            if rate not in reference or (name, scheme) == (first, reference[rate][0]):
                continue
            row = {"codec": name, "measure": "difference", "token_rate": rate, "scheme": scheme}
            row["against"] = f"{first}, {reference[rate][0]}"
            for metric, values in scores.items():
                row |= summarise(values - reference[rate][1][metric], metric)
            rows.append(row)
    return rows


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Lay the rows of ``compare_codecs`` out as tables of plain text.

    Examples
    --------
    >>> row = {"codec": "a", "measure": "phonemes", "codebook": 0, "accuracy": 0.5, "pnmi": 0.6}
    >>> print(as_text([row]))
    codec                    codebook     accuracy         pnmi
    a                               1        0.500        0.600
    """
    lines: list[str] = []
    tables = (
        ("reconstruction", ("n_q", "kbit/s", *METRICS)),
        ("rates", ("token_rate", "scheme", "kbit/s", *METRICS)),
        ("difference", ("token_rate", "scheme", *METRICS)),
        ("phonemes", ("codebook", "accuracy", "pnmi")),
        ("reading", ("n_q", "symbols", "per", "cer", "wer", "test")),
    )
    for measure, columns in tables:
        chosen = [dict(row) for row in rows if row["measure"] == measure]
        if chosen:
            label = "codec" if measure != "difference" else "less the first"
            lines.append(f"{label:<20}" + "".join(f"{name:>13}" for name in columns))
        for row in chosen:
            row["kbit/s"] = row.get("bitrate", 0) / 1000
            row["codebook"] = row.get("codebook", 0) + 1  # counted from 1, as papers do
            cells = (row.get(name, "") for name in columns)
            text = (f"  {c:>11}" if isinstance(c, int | str) else f"{c:>13.3f}" for c in cells)
            lines.append(f"{row['codec']:<20}" + "".join(text))
    return "\n".join(lines)
