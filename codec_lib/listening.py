r"""A listening test in a notebook: blind letters, a player and a slider each, nothing lost.

:func:`listening_test` is what a cell calls. Where a person can move sliders, it offers the trials
of one listener, one after the other, and each finished one is in the file before the next one is
heard. On paper it shows what the first trial looks and sounds like. Who hears what, and the file,
are in ``evaluation/mushra.py``, which runs without a screen.

[ITU-R BS.1534-3]. Notebook 35. Leaves out: looping a passage, switching
between letters without a gap. Read next: ``strips.py``.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.display import HTML, Audio, display
from torch import Tensor

from codec_lib import audio, nb, plotting, widgets
from codec_lib.evaluation.mushra import BANDS, REFERENCE, Design, Session, Trial

LEVELS = ("equal", "shared")
HEIGHT = 230  # pixels of a slider
Sounds = Mapping[str, Mapping[str, Tensor]]  # utterance -> condition -> (1, T)


def levelled(sounds: Mapping[str, Tensor], level: str = "equal") -> dict[str, Tensor]:
    r"""Bring the sounds of one trial to levels at which they may be compared.

    Parameters
    ----------
    sounds
        Condition to waveform (1, T), the hidden reference among them.
    level
        ``equal``: each gets the reference's level over its whole length, so that none wins by being
        louder. ``shared``: all keep their own, and a codec that is too quiet is heard to be.

    Returns
    -------
    dict[str, Tensor]
        In the order given, all times one gain: the reference at -20 dBFS, nothing beyond the peak.

    Raises
    ------
    ValueError
        If there is no reference, a sound is empty, silent or not finite, lengths differ, or the
        level is none of the two.
    """
    if level not in LEVELS:
        raise ValueError(f"level: got {level!r}, expected one of {', '.join(LEVELS)}")
    if REFERENCE not in sounds:
        raise ValueError(f"sounds: got {list(sounds)}, expected {REFERENCE!r} among them")
    target = float(audio.rms_db(sounds[REFERENCE].reshape(1, -1)))
    flat = {}
    for name, wav in sounds.items():
        one = torch.as_tensor(wav).detach().cpu().float().reshape(1, -1)
        if one.numel() == 0 or not bool(torch.isfinite(one).all()) or float(one.abs().max()) == 0:
            raise ValueError(f"{name}: got a sound that is empty, silent or not finite")
        if one.shape[-1] != sounds[REFERENCE].numel():
            size = sounds[REFERENCE].numel()
            raise ValueError(f"{name}: got {one.shape[-1]} samples, expected the original's {size}")
        flat[name] = audio.set_level(one, target) if level == "equal" else one
    gain = nb.shared_gain([flat[REFERENCE].numpy(), *(one.numpy() for one in flat.values())])
    return {name: gain * one for name, one in flat.items()}


def listening_test(
    design: Design,
    sounds: Sounds,
    listener: str,
    path: str | Path,
    sample_rate: int = 16000,
    level: str = "equal",
    alt: str = "Spectrograms of one trial, under letters",
) -> Session:
    r"""Offer a listening test to one listener, or show what it would be.

    Parameters
    ----------
    design
        What is compared on what.
    sounds
        ``sounds[utterance][condition]`` is a waveform (1, T); the same length within an utterance.
    listener
        Who listens: decides the order, and where to go on.
    path
        File of ratings.
    sample_rate
        Hz, of all.
    level
        See ``levelled``.
    alt
        Text that stands in for the picture.

    Returns
    -------
    Session
        Of this listener.

    Raises
    ------
    ValueError
        If a sound is missing or cannot be compared, or the file holds another test.
    """
    for utterance in design.utterances:
        lacking = set(design.conditions) - set(sounds.get(utterance, ()))
        if lacking:
            raise ValueError(f"sounds of {utterance!r}: got none of {sorted(lacking)}")
    session = Session(design, listener, path, nb.revision())
    if widgets.is_static():
        _on_paper(design.trials(listener)[0], len(session.trials), sounds, sample_rate, level, alt)
    else:
        display(LivePanel(session, sounds, sample_rate, level).widget)
    return session


def _on_paper(
    trial: Trial, count: int, sounds: Sounds, sample_rate: int, level: str, alt: str
) -> None:
    """Show the first trial: spectrograms, players and what a listener would do with them."""
    made = levelled(sounds[trial.utterance], level)
    heard = {"reference": made[REFERENCE]}
    heard |= {letter: made[condition] for letter, condition in trial.letters.items()}
    fig = plotting.spectrograms(heard, sample_rate, columns=6)
    fig.set_size_inches(plotting.WIDTH, 1.8 * -(-len(heard) // 6))
    nb.show(fig, alt)
    nb.audio_row(list(heard.items()), sample_rate)
    bands = ", ".join(f"{name} {low}–{high}" for name, (low, high) in BANDS.items())
    display(
        HTML(
            f"<p style='font-size:90%'>Trial 1 of {count}, on paper: nobody can move a slider. "
            "With a running kernel each letter has one, from 0 to 100, and the spectrograms are "
            f"not shown, since they give the letters away. {bands}.</p>"
        )
    )


class LivePanel:
    r"""The sliders and players of one listener; ``widget`` is what is displayed.

    Parameters
    ----------
    session
        Where to start, and where ratings go.
    sounds, sample_rate, level
        As in ``listening_test``.
    """

    def __init__(
        self, session: Session, sounds: Sounds, sample_rate: int, level: str = "equal"
    ) -> None:
        import ipywidgets

        self.session, self.sounds = session, sounds
        self.sample_rate, self.level = sample_rate, level
        self.title, self.body = ipywidgets.HTML(), ipywidgets.VBox()
        self.button = ipywidgets.Button(button_style="primary", icon="arrow-right")
        self.button.on_click(lambda _: self.forward())
        self.message = ipywidgets.HTML()
        foot = ipywidgets.HBox([self.button, self.message])
        self.widget = ipywidgets.VBox([self.title, self.body, foot])
        self.sliders: dict[str, Any] = {}
        self._fill()

    def forward(self) -> None:
        """Save the trial and show the next one; a refusal is said beside the button."""
        try:
            self.session.next_trial()
        except (ValueError, OSError) as error:
            self.message.value = f"<span style='color:#a00'>{html.escape(str(error))}</span>"
            return
        self._fill()

    def _fill(self) -> None:
        """Lay out the current trial, or the end of the test."""
        import ipywidgets

        trial, count = self.session.trial, len(self.session.trials)
        who, file = html.escape(self.session.listener), html.escape(self.session.path.name)
        self.sliders = {}
        if trial is None:
            self.title.value = f"<b>Thank you, {who}.</b> All {count} trials are in {file}."
            self.body.children, self.button.layout.display = (), "none"
            self.message.value = ""
            return
        self.title.value = (
            f"<b>{who}, trial {trial.number + 1} of {count}.</b> How close is each letter to the "
            "reference? One of them <i>is</i> the reference: score it 100. Move every slider."
        )
        made = levelled(self.sounds[trial.utterance], self.level)
        columns = [self._scale(), self._column("reference", made[REFERENCE])]
        columns += [self._column(k, made[name], True) for k, name in trial.letters.items()]
        layout = ipywidgets.Layout(flex_flow="row wrap", align_items="flex-end")
        self.body.children = (ipywidgets.HBox(columns, layout=layout),)
        last = trial.number + 1 == count
        self.button.description = "Save and finish" if last else "Save, next trial"
        self._count()

    def _count(self) -> None:
        """Say how many sliders have not been moved; only then can the button be pressed."""
        left = self.session.unmoved
        self.button.disabled = bool(left)
        self.message.value = f"not moved yet: {', '.join(left)}" if left else "all moved"

    def _column(self, label: str, wav: Tensor, rated: bool = False) -> Any:
        """Return a letter with its player and, if it is rated, its slider."""
        import ipywidgets

        data = Audio(wav.numpy().reshape(-1), rate=self.sample_rate, normalize=False).data
        player = ipywidgets.Audio(value=data, format="wav", autoplay=False, loop=False)
        player.layout = ipywidgets.Layout(width="110px")
        parts = [ipywidgets.HTML(f"<b>{html.escape(label)}</b>"), player]
        if rated:
            look = ipywidgets.Layout(height=f"{HEIGHT}px")
            slider = ipywidgets.IntSlider(0, 0, 100, orientation="vertical", layout=look)
            slider.style.handle_color = "#bbbbbb"  # until it has been moved
            slider.observe(lambda change: self._moved(label, change["new"]), names="value")
            self.sliders[label] = slider
            parts.append(slider)
        else:  # keeps the reference's player level with the others
            parts.append(ipywidgets.Box(layout=ipywidgets.Layout(height=f"{HEIGHT + 4}px")))
        look = ipywidgets.Layout(align_items="center", width="118px")
        return ipywidgets.VBox(parts, layout=look)

    def _moved(self, letter: str, score: int) -> None:
        self.session.rate(letter, score)
        self.sliders[letter].style.handle_color = plotting.PALETTE[0]
        self._count()

    def _scale(self) -> Any:
        """Return the five verbal bands, as high as the sliders are."""
        import ipywidgets

        shades = np.linspace(0.92, 0.75, len(BANDS))
        rows = "".join(
            "<div style='height:20%;box-sizing:border-box;padding:2px 6px;"
            f"background:rgba(0,0,0,{1 - shade:.2f})'>"
            f"{name}<br><span style='font-size:80%'>{low}–{high}</span></div>"
            for shade, (name, (low, high)) in zip(shades, BANDS.items(), strict=True)
        )
        # A slider's track is 44 pixels shorter than the slider, and its number stands below.
        style = f"height:{HEIGHT - 44}px;margin-bottom:38px;font-size:85%;line-height:1.25"
        return ipywidgets.HTML(f"<div style='{style}'>{rows}</div>")
