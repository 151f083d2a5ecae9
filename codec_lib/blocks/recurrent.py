r"""LSTM over frames with a skip connection, in channel-first layout.

EnCodec puts two unidirectional layers between its convolutions; SpeechTokenizer makes the encoder's
bidirectional, so a frame sees the whole utterance (and encoding in chunks is not exact). Notebook:
05_encoders_and_decoders. Leaves out: a streaming state. Read next: ``blocks/tiling.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SkipLSTM(nn.Module):
    r"""LSTM plus its input: y = LSTM(x) + x, or LSTM(x) + [x; x] where it is bidirectional.

    Parameters
    ----------
    channels
        Channels C in, and hidden width of each direction.
    num_layers
        LSTM layers.
    bidirectional
        True doubles the output channels.

    Examples
    --------
    >>> SkipLSTM(4, bidirectional=True)(torch.zeros(2, 4, 7)).shape
    torch.Size([2, 8, 7])
    """

    def __init__(self, channels: int, num_layers: int = 2, bidirectional: bool = False) -> None:
        super().__init__()
        self.directions = 2 if bidirectional else 1
        self.lstm = nn.LSTM(channels, channels, num_layers, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, F) to (B, C, F), or to (B, 2C, F) where it is bidirectional."""
        y, _ = self.lstm(x.permute(2, 0, 1))  # (F, B, C * directions)
        return y.permute(1, 2, 0) + torch.cat([x] * self.directions, dim=1)
