r"""What a network costs: parameters, multiply-adds, numbers written, processor time, what it hears.

Counts need shapes only, so networks of any size are counted on the meta device. Notebook:
05_encoders_and_decoders. Leaves out: Fourier transforms, one or two per cent of the cheapest
network of this library. Read next: ``speed.py``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.Linear, nn.LSTM)


def count_parameters(module: nn.Module) -> int:
    r"""Return the number of values in all parameters.

    Parameters
    ----------
    module
        Any, also on the meta device.

    Examples
    --------
    >>> count_parameters(nn.Conv1d(3, 6, 7))
    132
    """
    return sum(parameter.numel() for parameter in module.parameters())


def count_costs(module: nn.Module, x: Tensor) -> dict[str, int]:
    r"""Count what one forward pass takes.

    .. math:: \mathrm{MAC} = F \cdot C_{out} \cdot C_{in} \cdot k

    for a convolution with F outputs per channel, and for a transposed one with F inputs.

    Parameters
    ----------
    module
        Any, also on the meta device.
    x
        Its input; only its shape matters.

    Returns
    -------
    dict[str, int]
        ``parameters``; ``multiply_adds`` of matrix products and convolutions; ``written``, the
        values that convolutions, linear layers and LSTMs hand on.

    Examples
    --------
    >>> count_costs(nn.Conv1d(3, 6, 7, 2), torch.zeros(1, 3, 51))
    {'parameters': 132, 'multiply_adds': 2898, 'written': 138}
    """
    written: list[int] = []

    def note(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        written.append((output[0] if isinstance(output, tuple) else output).numel())

    copied = copy.deepcopy(module).to("meta")  # an LSTM on a CPU is one step that PyTorch skips
    for layer in copied.modules():
        if isinstance(layer, LAYERS):
            layer.register_forward_hook(note)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copied(x.to("meta"))
    return {
        "parameters": count_parameters(module),
        "multiply_adds": counter.get_total_flops() // 2,
        "written": sum(written),
    }


def processor_seconds(work: Callable[[], object], repetitions: int = 3) -> float:
    r"""Return the least processor time of several runs; other programs do not count.

    Parameters
    ----------
    work
        Called once to warm up, then ``repetitions`` times.
    repetitions
        At least 1.

    Examples
    --------
    >>> processor_seconds(lambda: None) < 0.1
    True
    """
    work()
    taken = []
    for _ in range(repetitions):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def samples_heard(encoder: nn.Module, num_samples: int = 16000) -> tuple[Tensor, int, int]:
    r"""Measure which samples reach one latent frame, by its gradient on noise.

    Parameters
    ----------
    encoder
        Maps (B, 1, T) to (B, D, F) and has a ``hop_length``; it is turned to double precision, in
        which small gradients do not vanish.
    num_samples
        Samples T of the noise; the frame is the one in the middle.

    Returns
    -------
    tuple[Tensor, int, int]
        Absolute gradient (T,), and the first and the last sample with one, counted from the
        frame's own first.

    Examples
    --------
    >>> from codec_lib.blocks.seanet import SEANetEncoder
    >>> encoder = SEANetEncoder(2, width=2, strides=(2, 2), lstm_layers=0, causal=True)
    >>> samples_heard(encoder, 200)[1:]
    (-42, 3)
    """
    noise = torch.randn(1, 1, num_samples, generator=torch.Generator().manual_seed(0))
    wav = (0.1 * noise.double()).requires_grad_()
    z = encoder.double()(wav)  # (1, D, F)
    frame = z.shape[-1] // 2
    (gradient,) = torch.autograd.grad(z[..., frame].sum(), wav)
    gradient = gradient.flatten().abs()
    reached = gradient.nonzero().flatten() - frame * encoder.hop_length
    return gradient, int(reached[0]), int(reached[-1])
