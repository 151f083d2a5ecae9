r"""HuBERT as published, from scratch: convolutions on the waveform, twelve Transformer layers.

[Hsu et al. 2021, HuBERT], §III, Table I; the network is torchaudio's, 94.6 million parameters at
the base size. Ours are the loss, the mask and what every teacher has: torchaudio compares a frame
with every unit by a cosine of its own and puts the right one in front; here one matrix product of
normalised frames and units gives the same softmax. Trained by ``pretraining.py`` like the small
network. On one core a step on 2 s of audio takes 8 s and 2.3 GB: this size is for a GPU.

Differences from the published recipe: masks are drawn per frame instead of as a fixed number of
spans; frames line up with the codec's (40 zeros in front), so there are ceil(T / 320) of them.

Used by notebook 20. Leaves out: several devices, fine-tuning (``ctc.py``).
Read next: ``pretrained.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torchaudio
from torch import Tensor
from torch.nn import functional

from codec_lib.shapes import check_shape

from .frontend import HOP, frame_count
from .standardised import StandardisedTeacher

RECEPTIVE_FIELD = 400  # samples that one frame of the convolutional front end sees
CONVOLUTIONS = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)


@dataclass(frozen=True)
class BaseHubertConfig:
    r"""Sizes of a ``BaseHubert``; by default the published base size. JSON-able.

    Attributes
    ----------
    conv_layers
        Channels, kernel and stride of each convolution; the strides' product is 320.
    conv_norm, conv_bias
        ``"group_norm"`` after the first convolution (base), or ``"layer_norm"`` after each (large).
    dim, num_layers, num_heads, ffn_dim
        Width D, Transformer layers, attention heads, width of the feed-forward part.
    position_kernel, position_groups
        The convolution that tells the Transformer about order.
    pre_norm
        True normalises before attention and feed-forward (large), False after them (base).
    projection_dropout, attention_dropout, ffn_dropout, dropout
        Shares of activations dropped in training.
    layer_drop
        Chance of a layer to be passed by in training.
    num_units, unit_dim, temperature
        Units to predict, the width in which frames are compared with them, what divides the cosine.
    feature_grad_mult
        Scales the gradient into the convolutions.
    feature_penalty
        Weight of the mean square of the convolutions' output in the loss.
    """

    conv_layers: tuple[tuple[int, int, int], ...] = CONVOLUTIONS
    conv_norm: str = "group_norm"
    conv_bias: bool = False
    dim: int = 768
    num_layers: int = 12
    num_heads: int = 12
    ffn_dim: int = 3072
    position_kernel: int = 128
    position_groups: int = 16
    pre_norm: bool = False
    projection_dropout: float = 0.1
    attention_dropout: float = 0.1
    ffn_dropout: float = 0.0
    dropout: float = 0.1
    layer_drop: float = 0.05
    num_units: int = 100
    unit_dim: int = 256
    temperature: float = 0.1
    feature_grad_mult: float = 0.1
    feature_penalty: float = 10.0

    def __post_init__(self) -> None:
        # JSON turns tuples into lists
        object.__setattr__(self, "conv_layers", tuple(tuple(one) for one in self.conv_layers))
        strides, seen = 1, 1
        for _, kernel, stride in self.conv_layers:
            seen, strides = seen + (kernel - 1) * strides, strides * stride
        if (strides, seen) != (HOP, RECEPTIVE_FIELD):
            raise ValueError(
                f"conv_layers: got strides of {strides} and a field of {seen} samples, expected "
                f"{HOP} and {RECEPTIVE_FIELD}, as kernels and strides are published"
            )


LARGE = BaseHubertConfig(
    conv_norm="layer_norm",
    dim=1024,
    num_layers=24,
    num_heads=16,
    ffn_dim=4096,
    pre_norm=True,
    projection_dropout=0.0,
    attention_dropout=0.0,
    dropout=0.0,
    layer_drop=0.0,
    num_units=500,
    unit_dim=768,
    feature_grad_mult=1.0,
)


def _network(config: BaseHubertConfig) -> torchaudio.models.HuBERTPretrainModel:
    """Make torchaudio's network; its own mask is not used."""
    return torchaudio.models.hubert_pretrain_model(
        extractor_mode=config.conv_norm,
        extractor_conv_layer_config=[tuple(one) for one in config.conv_layers],
        extractor_conv_bias=config.conv_bias,
        encoder_embed_dim=config.dim,
        encoder_projection_dropout=config.projection_dropout,
        encoder_pos_conv_kernel=config.position_kernel,
        encoder_pos_conv_groups=config.position_groups,
        encoder_num_layers=config.num_layers,
        encoder_num_heads=config.num_heads,
        encoder_attention_dropout=config.attention_dropout,
        encoder_ff_interm_features=config.ffn_dim,
        encoder_ff_interm_dropout=config.ffn_dropout,
        encoder_dropout=config.dropout,
        encoder_layer_norm_first=config.pre_norm,
        encoder_layer_drop=config.layer_drop,
        mask_prob=0.8,
        mask_selection="static",
        mask_other=0.0,
        mask_length=10,
        no_mask_overlap=False,
        mask_min_space=1,
        mask_channel_prob=0.0,
        mask_channel_selection="static",
        mask_channel_other=0.0,
        mask_channel_length=10,
        no_mask_channel_overlap=False,
        mask_channel_min_space=1,
        skip_masked=False,
        skip_nomask=False,
        num_classes=config.num_units,
        final_dim=config.unit_dim,
        feature_grad_mult=None,  # applied here
    )


class _ScaledGradient(torch.autograd.Function):
    """Pass values on unchanged and gradients scaled."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


class BaseHubert(StandardisedTeacher):
    r"""torchaudio's HuBERT for pre-training, with the interface of ``SmallHubert``.

    Parameters
    ----------
    config
        Sizes.

    Attributes
    ----------
    model
        ``torchaudio.models.HuBERTPretrainModel``.

    Examples
    --------
    >>> small = BaseHubertConfig(
    ...     conv_layers=((8, 10, 5), *((8, 3, 2),) * 4, *((8, 2, 2),) * 2), dim=32, num_layers=2,
    ...     num_heads=2, ffn_dim=64, position_kernel=8, position_groups=4)
    >>> BaseHubert(small).eval().features(torch.randn(1, 1, 16001), layer=1).shape
    torch.Size([1, 51, 32])
    """

    unit_keys = ("model.logit_generator.label_embeddings",)

    def __init__(self, config: BaseHubertConfig | None = None) -> None:
        super().__init__(config or BaseHubertConfig())
        self.model = _network(self.config)

    def hidden_states(
        self,
        wav: Tensor,
        mask: Tensor | None = None,
        frames: Tensor | None = None,
        warp: Tensor | None = None,
    ) -> list[Tensor]:
        r"""Return what enters the first layer, and what leaves each.

        Parameters
        ----------
        wav
            Shape (B, 1, T), float32, 16 kHz.
        mask
            True at frames to hide, shape (B, F), bool.
        frames
            Frames of each item that are no padding, shape (B,).
        warp
            Must be None: the network hears waveforms.

        Returns
        -------
        list[Tensor]
            ``num_layers + 1`` tensors (B, F, D), F = ceil(T / 320), numbered as in transformers;
            the last one of a pre-norm network has passed the final norm.

        Raises
        ------
        ValueError
            If there is a warp, or the shape is another.
        """
        return self._heard(wav, mask, frames, warp)[0]

    def training_states(
        self, wav: Tensor, mask: Tensor, frames: Tensor, warp: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        r"""Return the hidden states, and what is added to the loss: the convolutions' mean square.

        Parameters
        ----------
        wav, mask, frames, warp
            As in ``hidden_states``.
        """
        states, square = self._heard(wav, mask, frames, warp)
        return states, self.config.feature_penalty * square

    def _heard(
        self, wav: Tensor, mask: Tensor | None, frames: Tensor | None, warp: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the hidden states and the mean square of the convolutions' output."""
        if warp is not None:
            raise ValueError("warp: got factors, expected None; hint: PretrainConfig(warp=0)")
        body = self.model.wav2vec2
        x, _ = body.feature_extractor(pad_to_frames(wav)[:, 0], None)  # (B, F, channels)
        if self.config.feature_grad_mult != 1:
            x = _ScaledGradient.apply(x, self.config.feature_grad_mult)
        square = x.float().square().mean()
        x = body.encoder.feature_projection(x)  # (B, F, D)
        if mask is not None:
            hidden = self.model.mask_generator.mask_embedding.to(x.dtype)
            x = torch.where(mask[..., None], hidden, x)
        heard = None
        if frames is not None:
            heard = torch.arange(x.shape[1], device=x.device) < frames[:, None]  # (B, F)
            x = x * heard[..., None]
            heard = heard[:, None, None].expand(-1, 1, x.shape[1], -1)  # (B, 1, F, F)
        return self._layers(x, heard), square

    def _layers(self, x: Tensor, heard: Tensor | None) -> list[Tensor]:
        """Pass frames (B, F, D) through the layers, of which training leaves some out."""
        transformer = self.model.wav2vec2.encoder.transformer
        states = [transformer._preprocess(x)]
        for layer in transformer.layers:
            if self.training and float(torch.rand(())) <= self.config.layer_drop:
                states.append(states[-1])
            else:
                states.append(layer(states[-1], heard)[0])
        if not transformer.layer_norm_first:  # torchaudio's name: True where the input is normed
            states[-1] = transformer.layer_norm(states[-1])
        return states

    def logits(self, state: Tensor) -> Tensor:
        r"""Compare frames with units.

        .. math:: \ell_{fc} = \cos(A h_f, e_c) / \tau \qquad \text{[Hsu et al. 2021], Eq. (3)}

        Parameters
        ----------
        state
            Last hidden state h, shape (B, F, D).

        Returns
        -------
        Tensor
            Shape (B, F, units), float32 also under autocast. torchaudio's rows are [right one | all
            units with the right one at minus infinity]: another order of the same numbers.
        """
        head = self.model.logit_generator
        frame = head.final_proj(state)
        with torch.autocast(state.device.type, enabled=False):
            frame = functional.normalize(frame.float(), dim=-1)
            unit = functional.normalize(head.label_embeddings.float(), dim=-1)
            return frame @ unit.T / self.config.temperature  # Eq. (3)

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        r"""Load weights in torchaudio's own layout (``HuBERTPretrainModel.state_dict``), strictly.

        Raises
        ------
        ValueError
            If a weight is missing, unknown or of another shape.
        """
        try:
            self.model.load_state_dict(dict(state))
        except RuntimeError as error:
            raise ValueError(
                f"state: got weights that do not fit this size ({error}); expected those of "
                "torchaudio's HuBERTPretrainModel"
            ) from error

    def published_state(self) -> dict[str, Tensor]:
        r"""Return the weights in torchaudio's own layout."""
        return self.model.state_dict()


def pad_to_frames(wav: Tensor) -> Tensor:
    r"""Put zeros around a waveform, so that frame f is centred on the codec's frame f.

    The convolutions see samples [320 f, 320 f + 400) in frame f and make one frame less than the
    codec for most lengths. 40 zeros come in front and as many as needed behind.

    Parameters
    ----------
    wav
        Shape (B, 1, T).

    Returns
    -------
    Tensor
        Shape (B, 1, T'), from which the convolutions make ceil(T / 320) frames.

    Raises
    ------
    ValueError
        If the shape is another, or T is 0.
    """
    num_samples = check_shape(wav, "B 1 T", name="wav")["T"]
    if num_samples == 0:
        raise ValueError("wav: got 0 samples, expected at least 1")
    left = (RECEPTIVE_FIELD - HOP) // 2
    right = (frame_count(num_samples) - 1) * HOP + RECEPTIVE_FIELD - left - num_samples
    return functional.pad(wav, (left, right))
