r"""Starting points of runs: values of ``TrainConfig`` by name.

A preset named after a family of codecs, e.g. ``ds_codec``, is what ``codec-lib train`` starts from
where the codec's name begins so; with ``-paper`` it is the published recipe. What a paper leaves
open is filled in from the code it builds on, and ``docs/training.md`` says what.

Read next: ``config.py``.
"""

from __future__ import annotations

from typing import Any

_GPU = dict(
    scale="paper", precision="bf16-mixed", num_workers=8, valid_every=5000, audio_every=10_000,
    checkpoint_every=2500, valid_crops=64, valid_seconds=4.0,
)  # fmt: skip
_CPU = dict(scale="small", steps=6000, lr=1.5e-3, warmup_steps=100, cache_audio=True)
# AdamW of BigCodec and of DS-Codec's first stage; its weight decay is AdamW's default.
_MIRROR = dict(
    lr=1e-4, critic_lr=1e-4, betas=(0.8, 0.9), critic_betas=(0.8, 0.9), weight_decay=0.01,
    warmup_steps=1000, final_lr_fraction=0.1,
)  # fmt: skip
# The decoder's stage of DS-Codec: what made the codes stays as it is, a transformer block is new.
_DECODER = dict(name="decoder", freeze=["encoder", "quantizer"])
_BLOCK = {"transformer_layers": 1}

# CodecSlime: a codec of fixed rate, then random segments, then the scheduler's.
_COOL = dict(name="cool", freeze=["encoder"], rate="cool")
_FULL_RATE = {"token_rate": None}
_SLIME = dict(
    **_CPU, out_dir="runs/codecslime", recipe="ds_codec_small",
    stages=[
        dict(name="backbone", steps=4000, overrides=_FULL_RATE),
        dict(name="melt", steps=1000, rate="melt", final_lr_fraction=0.1),
        dict(**_COOL, steps=1000, lr=6e-4, final_lr_fraction=0.25),
    ],
)  # fmt: skip
_SLIME_PAPER = dict(
    **_GPU, recipe="bigcodec", critics="bigcodec", batch_size=16, **_MIRROR,
    out_dir="runs/codecslime-paper",
    stages=[
        dict(name="backbone", steps=1_200_000, overrides=_FULL_RATE),
        dict(name="melt", steps=100_000, rate="melt"),
        dict(
            **_COOL, steps=100_000, lr=4e-5, critic_lr=4e-5, final_lr_fraction=0.25,
        ),
    ],
)  # fmt: skip
# Factorised codes at the rate of "small": see "ds_codec".
_HELD = dict(
    weights={"commitment_loss": 1.0, "codebook_loss": 1.0},
    overrides={"quantizer": dict(kmeans_init=True, dead_code_threshold=0.1, decay=0.95)},
)

PRESETS: dict[str, dict[str, Any]] = {
    # A test's size: seconds on one core.
    "smoke": dict(
        scale="smoke", segment_seconds=0.5, batch_size=4, steps=20, corpus="synthetic/small",
        valid_crops=2, valid_seconds=1.0, warmup_steps=2, out_dir="runs/smoke",
    ),
    # The spectral backbone on two CPU cores.
    # The encoder moves fast at first; codebooks that look back 100 steps (decay 0.99) lose it and
    # collapse to 3 % usage within 80 steps, those that look back 20 stay above 90 %.
    "small": dict(**_CPU, overrides={"quantizer": {"decay": 0.95}}, out_dir="runs/small"),
    # SpeechTokenizer on GPUs: 3 s crops, all three critics from the first step.
    "paper": dict(
        **_GPU, segment_seconds=3.0, batch_size=24, lr=1e-4, critic_lr=1e-4, final_lr_fraction=0.0,
        recipe="paper", critics="paper", steps=400_000, warmup_steps=0, clip_norm=0.0,
        out_dir="runs/paper",
    ),
    # DM-Codec: SpeechTokenizer with two teachers; text on RVQ-1, speech on RVQ-1:8.
    "dm_codec": dict(
        **_CPU, codec="dm_codec", overrides={"quantizer": {"decay": 0.95}}, recipe="dm_codec_small",
        teacher="hubert-small", distill="continuous", text_teacher="text-small",
        out_dir="runs/dm_codec",
    ),
    # The released code: ten epochs of LibriSpeech at six crops a step; vectors in time, not padded.
    "dm_codec-paper": dict(
        **_GPU, codec="dm_codec", segment_seconds=3.0, batch_size=6, lr=1e-4, critic_lr=1e-4,
        final_lr_fraction=0.0, recipe="dm_codec", critics="paper", steps=470_000, warmup_steps=0,
        clip_norm=0.0, teacher="hubert_base", distill="continuous", text_teacher="bert_base",
        text_aligner="wav2vec2_asr_base_960h", out_dir="runs/dm_codec-paper",
    ),
    # SACodec: 1 s crops, one stage. The paper prints neither learning rate, batch nor steps.
    "sacodec": dict(**_CPU, codec="sacodec", recipe="sacodec_small", out_dir="runs/sacodec"),
    "sacodec-paper": dict(
        **_GPU, codec="sacodec", recipe="sacodec", critics="sacodec", batch_size=40,
        lr=2e-4, critic_lr=2e-4, betas=(0.9, 0.999), critic_betas=(0.9, 0.999), weight_decay=0.01,
        warmup_steps=1000, final_lr_fraction=0.0, steps=500_000, out_dir="runs/sacodec-paper",
    ),
    # BigCodec's code; a cosine in place of its straight line.
    "bigcodec-paper": dict(
        **_GPU, codec="bigcodec", recipe="bigcodec", critics="bigcodec", batch_size=8,
        **_MIRROR, steps=600_000, out_dir="runs/bigcodec-paper",
    ),
    # DS-Codec: the mirror, then the decoder with a transformer block, at a fifth of the rate.
    # At fifteen times the published rate the recipe's weights of the VQ terms (0.02, 0.09) let the
    # latent run away from random entries: after 150 steps of a narrow codec, 8 x 0.5 s, 2 % of 8192
    # codes were in use at a commitment loss of 55. Weights of 1 made that 20 % and 0.35, a start by
    # k-means with revival 26 % and 0.07 (without it 5 %); books of 16 lose most random entries. At
    # the small size 91 % are in use after 400 steps, 97 % after 4,000; moving averages are level.
    "ds_codec": dict(
        **_CPU, **_HELD, codec="ds_codec_vq", recipe="ds_codec_small", out_dir="runs/ds_codec",
        stages=[
            dict(name="mirror", steps=4000),
            dict(**_DECODER, steps=2000, lr=3e-4, final_lr_fraction=0.5, overrides=_BLOCK),
        ],
    ),
    "ds_codec-paper": dict(
        **_GPU, codec="ds_codec_vq", recipe="ds_codec", critics="bigcodec", batch_size=10,
        **_MIRROR, out_dir="runs/ds_codec-paper",
        stages=[
            dict(name="mirror", steps=600_000),
            dict(
                **_DECODER, steps=200_000, batch_size=24, lr=2e-5, critic_lr=2e-5,
                final_lr_fraction=0.5, overrides=_BLOCK,
            ),
        ],
    ),
    # CodecSlime: rates, steps and shares at paper scale are printed; batch and losses BigCodec's.
    "codecslime_vq": dict(**_SLIME, **_HELD, codec="codecslime_vq"),
    "codecslime_fsq": dict(**_SLIME, codec="codecslime_fsq"),
    "codecslime_vq-paper": dict(**_SLIME_PAPER, codec="codecslime_vq"),
    "codecslime_fsq-paper": dict(**_SLIME_PAPER, codec="codecslime_fsq"),
}  # fmt: skip
PRESETS["official"] = {**PRESETS["paper"], "recipe": "official", "out_dir": "runs/official"}


def preset_for(codec: str, scale: str = "small") -> str:
    r"""Return the preset that a codec's training starts from.

    Parameters
    ----------
    codec
        Name in the registry.
    scale
        ``"smoke"``, ``"small"`` or ``"paper"``.

    Returns
    -------
    str
        The preset of the codec's family, else the one named as the scale.

    Examples
    --------
    >>> preset_for("ds_codec_pq"), preset_for("ds_codec_pq", "paper"), preset_for("encodec")
    ('ds_codec', 'ds_codec-paper', 'small')
    """
    families = {preset.partition("-")[0] for preset in PRESETS if "codec" in PRESETS[preset]}
    family = next((one for one in sorted(families) if codec.startswith(one)), "")
    own = family if scale == "small" else f"{family}-{scale}"
    return own if own in PRESETS else scale
