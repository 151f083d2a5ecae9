r"""Fabric for a config: devices, precision and processes.

Left out: fp16 (its loss scaling skips steps) and sharding.

Read next: ``run.py``.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import DDPStrategy

from codec_lib.training.config import TrainConfig


class WaveformPrecision(MixedPrecision):
    r"""bf16 autocast that leaves waveforms in float32.

    Fabric's own plugin also casts the inputs; a bf16 sample has 8 significant bits, 48 dB.
    """

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)

    def convert_input(self, data: Any) -> Any:
        """Return the inputs as they are."""
        return data


def make_fabric(config: TrainConfig) -> Fabric:
    r"""Build and launch Fabric.

    Under ``torchrun`` and ``fabric run`` the number of processes is what they started; else it is
    ``devices`` times ``num_nodes``, and Fabric starts the others.

    Parameters
    ----------
    config
        Its accelerator, devices, num_nodes, strategy and precision.

    Returns
    -------
    Fabric
        Launched.

    Raises
    ------
    ValueError
        If the devices asked for are not there.
    """
    # Harmless notes of the wrapper for several processes: depthwise weights have two layouts of the
    # same memory, and most recipes use every parameter.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    devices, num_nodes = config.devices, config.num_nodes
    if "LOCAL_WORLD_SIZE" in os.environ:  # started by torchrun or `fabric run`
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    is_gpu = config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    strategy: Any = config.strategy
    if strategy in ("auto", "ddp") and devices * num_nodes > 1:
        # Buffers are codebooks, equal on all ranks because their statistics are summed, or because
        # ``as_published`` hands on rank 0's itself; to broadcast them every step would cost time
        # and hide a difference. A head that the recipe does not use has no gradient, which DDP
        # must be told to expect.
        strategy = DDPStrategy(broadcast_buffers=False, find_unused_parameters=True)
    is_started = os.environ.get("LT_CLI_USED") == "1"  # `fabric run` chose devices and launched
    kwargs: dict[str, Any] = {"devices": devices, "num_nodes": num_nodes}
    kwargs = {} if is_started else {**kwargs, "accelerator": config.accelerator}
    if "LT_STRATEGY" not in os.environ:
        kwargs["strategy"] = strategy
    if config.precision == "bf16-mixed":
        kwargs["plugins"] = [WaveformPrecision("cuda" if is_gpu else "cpu")]
    try:
        fabric = Fabric(**kwargs)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"accelerator={config.accelerator}, devices={devices}: {error}") from None
    if not is_started:
        fabric.launch()
    return fabric
