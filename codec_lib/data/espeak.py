r"""Speak text with espeak-ng and learn exactly where each phoneme lies.

espeak-ng comes as a shared library in the PyPI package ``espeakng-loader`` and is called through
ctypes. Its event stream names every phoneme with the sample at which it begins [espeak-ng,
``speak_lib.h``].

espeak-ng keeps state between utterances (flutter, noise, echo), so the same words sound slightly
different after other words, even after ``espeak_Terminate``. To make an utterance depend on its
arguments alone, the library is loaded afresh for each one and closed after it: 6 ms. It is not
thread-safe; call it from one thread of a process.

Used by notebook 01. Leaves out: SSML, languages' own text rules, playing sound.
Read next: ``phonemes.py``.
"""

from __future__ import annotations

import _ctypes
import ctypes
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass

import numpy as np

# Constants of espeak-ng's speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_INIT_PHONEME_EVENTS, _INIT_DONT_EXIT = 0x0001, 0x8000
_EVENT_END_OF_LIST, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_IPA = 0x02  # phonemes in the International Phonetic Alphabet


class EspeakError(ValueError):
    r"""Say why espeak-ng could not speak: it is missing, or does not know the voice."""


class EspeakMissing(EspeakError):
    r"""Say that espeak-ng or its data is not there, whatever the text."""


@dataclass(frozen=True)
class Speech:
    r"""What espeak-ng said.

    Attributes
    ----------
    samples
        Audio, shape (T,), int16.
    sample_rate
        Hz; 22,050.
    phonemes
        ``(mnemonic, first sample)`` in order of time; espeak-ng's own names, stress marks included.
    words
        ``(character, phoneme)`` in order of time: place in the text, from 0, and number of the
        first phoneme. Words that are spoken as one ("of the") come as one; some come twice.
    """

    samples: np.ndarray
    sample_rate: int
    phonemes: tuple[tuple[str, int], ...]
    words: tuple[tuple[int, int], ...] = ()


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def speak(
    text: str, voice: str = "en-us", pitch: int = 50, rate: int = 175, pitch_range: int = 50
) -> Speech:
    r"""Speak a text; the result depends on the arguments alone.

    Parameters
    ----------
    text
        What to say, in the language of the voice.
    voice
        Language, then ``+`` and a variant where wanted: ``"en-us+f2"``, ``"cmn-latn-pinyin+m3"``.
    pitch
        0 to 99; 50 is the voice's own.
    rate
        Words a minute, 80 to 450.
    pitch_range
        0 (monotone) to 99; 50 is the voice's own.

    Returns
    -------
    Speech
        Samples and phonemes.

    Raises
    ------
    EspeakError
        If espeak-ng is not installed, does not know the voice, or makes no sound of the text.
    ValueError
        If a number is out of range.
    """
    if not (0 <= pitch <= 99 and 80 <= rate <= 450 and 0 <= pitch_range <= 99):
        raise ValueError(
            f"speak: got pitch={pitch}, rate={rate}, pitch_range={pitch_range}, "
            "expected 0..99, 80..450, 0..99"
        )
    library, data_path = _load()
    try:
        options = _INIT_PHONEME_EVENTS | _INIT_DONT_EXIT
        sample_rate = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data_path, options)
        if sample_rate <= 0:
            raise EspeakMissing(
                f"espeak-ng: got error {sample_rate} from its data in {data_path!r}"
            )
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EspeakError(f"voice: got {voice!r}, expected one such as 'en-us' or 'en-us+f2'")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            library.espeak_SetParameter(parameter, value, 0)
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # noise of the klatt voices
        samples, phonemes, words = _synthesize(library, text)
        library.espeak_Terminate()
    finally:
        _unload(library)
    if not len(samples) or all(name.startswith("_") for name, _ in phonemes):  # pauses alone
        raise EspeakError(f"text: got {text!r}, which has no sound in voice {voice!r}")
    return Speech(samples, sample_rate, phonemes, words)


def to_ipa(text: str, voice: str = "en-us") -> str:
    r"""Return how a text without punctuation is spoken, in the International Phonetic Alphabet.

    Parameters
    ----------
    text
        In the language of the voice.
    voice
        As in ``speak``.

    Returns
    -------
    str
        Phonemes with ``_`` between them and a blank between words, stress marks included.

    Raises
    ------
    EspeakError
        If espeak-ng is not installed or does not know the voice.

    Examples
    --------
    >>> to_ipa("the sea")
    'ð_ə s_ˈiː'
    """
    library, data_path = _load()
    try:
        library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, data_path, _INIT_DONT_EXIT)
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EspeakError(f"voice: got {voice!r}, expected one such as 'en-us' or 'en-us+f2'")
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        left, mode, parts = ctypes.c_char_p(text.encode()), _IPA | ord("_") << 8, []
        while left.value:  # a clause at a time
            said = library.espeak_TextToPhonemes(ctypes.byref(left), _CHARS_UTF8, mode)
            parts.append((said or b"").decode("utf-8", "replace").strip())
        library.espeak_Terminate()
    finally:
        _unload(library)
    return " ".join(part for part in parts if part)


def _synthesize(library: ctypes.CDLL, text: str) -> tuple[np.ndarray, tuple, tuple]:
    """Run the synthesis, collecting samples, phoneme events and word events."""
    pieces: list[bytes] = []
    phonemes: list[tuple[str, int]] = []
    words: list[tuple[int, int]] = []

    def collect(wav, num_samples, events) -> int:
        if wav and num_samples > 0:
            pieces.append(ctypes.string_at(wav, 2 * num_samples))
        position = 0
        while events[position].type != _EVENT_END_OF_LIST:
            event = events[position]
            if event.type == _EVENT_PHONEME:
                mnemonic = bytes(event.id.string).partition(b"\0")[0].decode("utf-8", "replace")
                phonemes.append((mnemonic, event.sample))
            elif event.type == _EVENT_WORD:
                words.append((event.text_position - 1, len(phonemes)))  # espeak-ng counts from 1
            position += 1
        return 0  # 1 would stop the synthesis

    callback = _Callback(collect)
    library.espeak_SetSynthCallback(callback)
    said = text.encode("utf-8")
    library.espeak_Synth(said, len(said) + 1, 0, 0, 0, _CHARS_UTF8, None, None)
    return np.frombuffer(b"".join(pieces), dtype=np.int16), tuple(phonemes), tuple(words)


def _load() -> tuple[ctypes.CDLL, bytes]:
    """Load a fresh copy of the library; return it and the path of its data."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise EspeakMissing(
            "espeak-ng: got no package 'espeakng-loader', expected it installed. "
            "Hint: pip install espeakng-loader (10 MB)"
        ) from error
    path = espeakng_loader.get_library_path()
    library = _private_copy(path) if _is_loaded(path) else ctypes.CDLL(path)
    library.espeak_Synth.argtypes = (
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_void_p,
        ctypes.c_void_p,
    )
    return library, os.fsencode(espeakng_loader.get_data_path())


def _is_loaded(path: str) -> bool:
    """Return whether the library is in memory already, so that its state would leak in."""
    try:
        handle = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except (AttributeError, OSError):  # Windows cannot ask; elsewhere this says that it is not
        return False
    _unload(handle)  # asking counts as one more use
    return True


def _private_copy(path: str) -> ctypes.CDLL:
    """Load the library from a copy of its file, which gets memory of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return ctypes.CDLL(shutil.copy(path, folder))  # stays in memory when its file is gone


def _unload(library: ctypes.CDLL) -> None:
    """Close the library, so that the next utterance starts without memory of this one."""
    close = _ctypes.FreeLibrary if sys.platform == "win32" else _ctypes.dlclose
    close(library._handle)
