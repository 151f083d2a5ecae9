r"""The state of one run: networks, optimisers, averaged weights, data position, and saving it all.

Read next: ``loop.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import codec_lib
from codec_lib import hub
from codec_lib.codecs.base import Codec
from codec_lib.discriminators import DiscriminatorEnsemble, build_discriminators
from codec_lib.losses.objective import GeneratorObjective, check_forms, recipe
from codec_lib.quantizers.health import (
    CountWindow,
    health_from_counts,
    usage_alarms,
)
from codec_lib.quantizers.ranks import all_rows
from codec_lib.rate.segments import to_row
from codec_lib.shapes import Codes
from codec_lib.training import checkpoints
from codec_lib.training.averaging import AveragedWeights
from codec_lib.training.batches import (
    digest_of,
    held_out_crops,
    training_and_held_out,
    training_batches,
)
from codec_lib.training.config import TrainConfig, last_stage
from codec_lib.training.freezing import FrozenParts
from codec_lib.training.rates import Segment, make_manager, segment_at
from codec_lib.training.stages import FINAL
from codec_lib.training.steps import Networks, Trainee
from codec_lib.training.teaching import Teaching, make_teaching

WINDOW = 32  # steps that codebook health looks back on: one batch holds too few codes to judge
ALARM_EVERY = 200  # steps between alarms, so that a collapsed codebook does not flood the log


class Run:
    r"""Build everything a run needs and hold its state.

    Parameters
    ----------
    config
        What to build.
    fabric
        Launched.

    Attributes
    ----------
    step
        Steps taken, which is also the data position.
    codec, critics
        The bare modules; ``networks`` has them as Fabric wraps them.
    best, validated
        Smallest held-out mel distance so far, and all figures of the last validation (process 0).
    """

    def __init__(self, config: TrainConfig, fabric: Fabric) -> None:
        self.config, self.fabric, self.step, self.best = config, fabric, 0, float("inf")
        self.codec, self.validated = None, {}
        self._data: Any = None
        self.recent = CountWindow(WINDOW)
        self._build_data()
        self._build_networks()
        torch.manual_seed(config.seed + 1 + fabric.global_rank)  # dropout differs between ranks

    def _build_data(self) -> None:
        """Find the corpora and what the teacher says about them."""
        config, fabric = self.config, self.fabric
        plain = codec_lib.build(config.codec, config.scale, **config.overrides)
        with fabric.rank_zero_first():  # process 0 makes or fills what the others then read
            self.corpus, held_out = training_and_held_out(config, plain.sample_rate)
            self.crops = held_out_crops(config, held_out, plain.hop_length).to(fabric.device)
            is_first, say = fabric.is_global_zero, print if fabric.is_global_zero else None
            self.teaching: Teaching = make_teaching(
                config, self.corpus, plain, fabric.device, say, is_first
            )
        listed = ((one.utterance_id, self.corpus.length(n)) for n, one in enumerate(self.corpus))
        self.data_print = digest_of(self.teaching.fingerprint, listed)

    def _build_networks(self) -> None:
        """Build codec, critics and optimisers, and hand them to Fabric."""
        config, fabric = self.config, self.fabric
        overrides = {**self.teaching.overrides, **config.overrides}
        torch.manual_seed(config.seed)
        self.codec = codec_lib.build(config.codec, config.scale, **overrides)
        self.fresh_parts: list[str] = []
        if config.init_from is not None:
            self.fresh_parts = load_weights(self.codec, config.init_from, config.freeze)
        self.manager = make_manager(config, self.codec)
        self.frozen = FrozenParts(self.codec.train(), config.freeze)
        if config.compile:  # not the quantizer: k-means start and revival depend on the data
            self.codec.encoder.compile()
            self.codec.decoder.compile()
        options = {"weight_decay": config.weight_decay, "eps": config.epsilon, "fused": True}
        trainee = Trainee(self.codec, self.teaching.projections)
        moving = [parameter for parameter in self.codec.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(moving, lr=config.lr, betas=config.betas, **options)
        self.networks = Networks(
            *fabric.setup(trainee, optimizer),
            objective=make_objective(config, self.codec.sample_rate).to(fabric.device),
            clip_norm=config.clip_norm,
            heard=config.critic_batch_size // fabric.world_size or None,
        )
        self.average = AveragedWeights(self.codec, config.average_decay)
        self.critics = None
        if config.critics:
            self.critics = make_critics(config, self.codec.sample_rate).train()
            if config.compile:
                self.critics.compile()
            optimizer = torch.optim.AdamW(
                self.critics.parameters(), lr=config.critic_lr, betas=config.critic_betas, **options
            )
            wrapped = fabric.setup(self.critics, optimizer)
            self.networks.critics, self.networks.critic_optimizer = wrapped

    @property
    def audio_seconds(self) -> float:
        """Seconds of speech in a step of all processes."""
        return self.config.batch_size * self.config.segment_seconds

    def describe(self) -> str:
        """Return one line about the run for people."""
        config = self.config
        size = sum(parameter.numel() for parameter in self.codec.parameters()) / 1e6
        critics = "no critics"
        if self.critics is not None:
            number = sum(parameter.numel() for parameter in self.critics.parameters()) / 1e6
            critics = f"critics {config.critics} ({number:.2f} M) from step {config.critic_start}"
        start = f"resumed at step {self.step}" if self.step else "from step 0"
        told = ""
        if hasattr(self.codec.config, "teacher_dim") and not self.teaching.projections:
            name = "hubert_base" if config.scale == "paper" else "hubert-small"
            told = f"; no teacher: codebook 1 is not taught. Hint: --teacher {name}"
        held = f", frozen: {', '.join(config.freeze)}" if config.freeze else ""
        if config.init_from is not None:
            source = "/".join(Path(config.init_from).parts[-2:])  # a log that travels names no home
            held += f", weights of {source}"
            held += f", new: {', '.join(self.fresh_parts)}" if self.fresh_parts else ""
        return (
            f"{config.codec} {config.scale} ({size:.2f} M){held}, {critics}, {len(self.corpus)} "
            f"utterances, {config.batch_size} x {config.segment_seconds} s, "
            f"{self.fabric.world_size} x {self.fabric.device.type}, {config.precision}; "
            f"{start} of {config.steps}{told}"
        )

    def open_data(self) -> None:
        """Open the data at the present step."""
        self._data = training_batches(
            self.config,
            self.corpus,
            self.codec.hop_length,
            self.teaching.features,
            self.step,
            self.fabric.global_rank,
            self.fabric.world_size,
        )

    def next_batch(self) -> dict[str, Tensor]:
        """Return this process's batch of the present step, on its device."""
        return self.fabric.to_device(next(self._data))

    def segment(self) -> Segment | None:
        """Return what cuts this process's latents in the present step; None for the codec."""
        ranks = self.fabric.global_rank, self.fabric.world_size
        return segment_at(self.manager, self.step, self.config.seed, *ranks)

    def count_codes(self, codes: Codes) -> None:
        """Remember how often each code was used in this step, by all processes."""
        sent = codes.codes if codes.lengths is None else to_row(codes.codes, codes.lengths)
        rows = all_rows(sent.transpose(1, 2).flatten(0, 1))  # of all processes, (V, K)
        self.recent.add_codes(rows.T[None], self.codec.codebook_sizes)

    def reduce(self, values: dict[str, Tensor], stop: bool) -> tuple[dict[str, float], bool]:
        r"""Average metrics over processes, and add learning rate and codebook health.

        Parameters
        ----------
        values
            Scalars of this process.
        stop
            True if this process wants to stop.

        Returns
        -------
        tuple[dict[str, float], bool]
            Metrics by full name, and True if any process wants to stop.
        """
        packed = torch.stack(
            [*values.values(), torch.tensor(float(stop), device=self.fabric.device)]
        )
        *means, wanted = self.fabric.all_reduce(packed.float(), reduce_op="mean").tolist()
        named = {f"train/{name}": mean for name, mean in zip(values, means, strict=True)}
        named["train/lr"] = self.networks.codec_optimizer.param_groups[0]["lr"]
        health = health_from_counts(self.recent.counts(), self.codec.codebook_sizes)
        for name, per_codebook in health.items():
            for index, value in enumerate(per_codebook.tolist(), start=1):
                named[f"codes/{name}_{index}"] = value
        return named, wanted > 0

    def alarms(self) -> list[str]:
        """Return a line for every collapsed codebook, now and then."""
        if (self.step + 1) % ALARM_EVERY:
            return []
        found = usage_alarms(self.recent.counts(), codebook_size=self.codec.codebook_sizes)
        return [f"ALARM step {self.step + 1}: {line}" for line in found]

    def save(self, run_dir: Path) -> None:
        """Write a checkpoint after the present step; every process takes part."""
        self.check_frozen()
        best = None if self.best == float("inf") else self.best
        state = {"step": self.step, "best": best, "frozen": self.frozen.digests}
        state |= {"validated": self.validated, "data": self.data_print}
        parts = self._modules(), self._optimizers(), {"health": self.recent.state()}
        checkpoints.save_all(self.fabric, run_dir, *parts, state)

    def check_frozen(self) -> None:
        """Raise FrozenPartChanged if a frozen part is not what it was when the run began."""
        self.frozen.check(self.codec)
        self.frozen.check(self.average.module, "the averaged weights")

    def restore(self, folder: Path) -> None:
        r"""Continue from a checkpoint.

        Parameters
        ----------
        folder
            What ``checkpoints.latest_checkpoint`` returns.

        Raises
        ------
        CheckpointError
            If a file is missing, damaged or does not fit the networks, or the utterances or the
            teacher are others than when the run began.
        FrozenPartChanged
            If a frozen part in it is not what it was when the run began.
        """
        state = checkpoints.load_json(folder / "state.json")
        if state.get("data", self.data_print) != self.data_print:
            raise checkpoints.CheckpointError(
                f"{folder}: got a run on other data or of another teacher, expected the same. "
                "Hint: use --fresh to replace it, or another --out"
            )
        self.step = state["step"]
        self.best = float("inf") if state["best"] is None else state["best"]
        self.validated = state.get("validated", {})
        checkpoints.restore_modules(folder, self._modules())
        self.frozen.digests = state.get("frozen", {})  # of the start, wherever init_from is now
        self.check_frozen()
        for name, optimizer in self._optimizers().items():
            checkpoints.load_optimizer(folder, name, optimizer)
        self.recent.load(checkpoints.read_tensor_file(folder / "health.safetensors"))
        checkpoints.restore_random_state(folder, self.fabric.global_rank)

    def _modules(self) -> dict[str, nn.Module]:
        modules = {"codec": self.codec, "average": self.average.module}
        return modules if self.critics is None else {**modules, "critics": self.critics}

    def _optimizers(self) -> dict[str, Any]:
        optimizers = {"codec_optimizer": self.networks.codec_optimizer}
        if self.critics is not None:
            optimizers["critic_optimizer"] = self.networks.critic_optimizer
        return optimizers


def make_objective(config: TrainConfig, sample_rate: int) -> GeneratorObjective:
    r"""Build the loss of a run at a codec's rate in Hz, or raise ValueError for a wrong recipe."""
    changed = recipe(config.recipe, weights=config.weights, **config.recipe_overrides)
    check_forms(changed)
    return GeneratorObjective(changed, sample_rate=sample_rate)


def make_critics(config: TrainConfig, sample_rate: int) -> DiscriminatorEnsemble:
    r"""Build the discriminators of a run.

    Parameters
    ----------
    config
        With ``critics``.
    sample_rate
        Of the codec, Hz.

    Raises
    ------
    ValueError
        If there are no such ones, or crops are too short for them.
    """
    names = config.critics if "," not in config.critics else config.critics.split(",")
    critics = build_discriminators(names, **config.critic_overrides)
    least = critics.min_samples / sample_rate
    if config.segment_seconds < least:
        raise ValueError(
            f"segment_seconds: got {config.segment_seconds:g}, expected at least {least:g} for "
            f"critics {config.critics!r}"
        )
    return critics


def load_weights(codec: Codec, source: str, needed: Sequence[str] = ()) -> list[str]:
    r"""Copy weights into a codec from a run folder, a file or a shipped name.

    Parameters
    ----------
    codec
        Receives every weight and buffer of the same name and shape; a module of which one does not
        fit keeps all of its own, so that a codebook of another size starts anew.
    source
        Of a run folder, its best weights, else its final ones; of a run in stages, the last's.
    needed
        Parts of which nothing may be missing, besides encoder and decoder.

    Returns
    -------
    list[str]
        Parts of the codec, e.g. ``"transformer"``, that keep weights of their own.

    Raises
    ------
    ValueError
        If nothing is found, or encoder, decoder or a needed part do not fit.
    """
    fitting = fitting_weights(stored_codec(source), codec, source, needed)
    codec.load_state_dict(fitting, strict=False)
    return sorted({key.partition(".")[0] for key in codec.state_dict() if key not in fitting})


def stored_codec(source: str) -> Codec:
    r"""Return the codec of a run folder, a file or a shipped name, or raise ValueError."""
    if Path(source).is_dir():
        files = [last_stage(source) / name for name in ("best.safetensors", FINAL)]
        source = next((str(path) for path in files if path.exists()), source)
    return hub.load(source, fold=False)


def fitting_weights(
    given: Codec, codec: Codec, source: str, needed: Sequence[str] = ()
) -> dict[str, Tensor]:
    r"""Return the weights of one codec that another can take over.

    Parameters
    ----------
    given, codec
        The one and the other.
    source
        What a message calls the first.
    needed
        See ``load_weights``.

    Raises
    ------
    ValueError
        If encoder, decoder or a needed part do not fit.
    """
    old, own = given.state_dict(), codec.state_dict()
    same = {key for key, value in old.items() if key in own and value.shape == own[key].shape}
    broken = {key.rpartition(".")[0] for key in own.keys() - same}
    fitting = {key: old[key] for key in same if key.rpartition(".")[0] not in broken}
    left = [key for key in own if key not in fitting]
    parts = tuple(f"{part}." for part in ("encoder", "decoder", *needed))
    missing = [key for key in left if key.startswith(parts)]
    if missing:
        raise ValueError(
            f"init_from {source}: {len(missing)} weights do not fit, e.g. {missing[0]}"
        )
    return fitting
