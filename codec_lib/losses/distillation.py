r"""Semantic distillation: make the first quantizer say what a teacher says.

Source: [SpeechTokenizer], §3.2, Eqs. (2) and (3); [DM-Codec] uses the first with two teachers.
Notebook: ``06_losses_and_discriminators``, ``10_speechtokenizer`` and ``11_dm_codec``. Deviations:
teacher features must be (B, F, D), because with a further axis the official loss compares across
the batch and only frame 0 gets gradient; the frame-wise form is the one of the paper's ablation;
frames of which a teacher says nothing can be left out. Left out: the teachers (``teachers``) and
the projection A (the codec's). Read next: ``commitment.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from codec_lib.shapes import check_shape

MAX_MISMATCH = 1  # frames: HuBERT gives 149 for 3 s where the codec has 150


def align_frames(
    student: Tensor, teacher: Tensor, max_mismatch: int = MAX_MISMATCH
) -> tuple[Tensor, Tensor]:
    r"""Cut two sequences to the shorter one.

    Parameters
    ----------
    student, teacher
        Features or labels, (B, F, ...).
    max_mismatch
        Difference in frames that is put down to rounding.

    Returns
    -------
    tuple[Tensor, Tensor]
        Both with the same number of frames.

    Raises
    ------
    ValueError
        If they differ by more than ``max_mismatch`` frames: then the rates differ.
    """
    frames = (student.shape[1], teacher.shape[1])
    if min(frames) < 1 or abs(frames[0] - frames[1]) > max_mismatch:
        raise ValueError(
            f"frames: got {frames[0]} of the student and {frames[1]} of the teacher, expected a "
            f"difference of at most {max_mismatch}; both need the same frame rate and crop"
        )
    return student[:, : min(frames)], teacher[:, : min(frames)]


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    axis: str = "d",
    centred: bool = False,
    similarity_weight: float = 1.0,
    heard: Tensor | None = None,
) -> Tensor:
    r"""Distance between projected RVQ-1 output and teacher features.

    .. math:: L_{distill} = -\frac{1}{D} \sum_{d=1}^{D}
        \log \sigma\left(\cos\left(A Q_1^{(:,d)}, S^{(:,d)}\right)\right)

    [SpeechTokenizer], Eq. (2): the cosine runs over time, once per feature dimension, so that each
    dimension's trajectory is matched. A Q_1 is ``student``, S is ``teacher``.

    Parameters
    ----------
    student, teacher
        Projected output of the first quantizer and teacher features, (B, F, D); one frame more or
        fewer is cut.
    axis, similarity_weight
        ``"d"``: Eq. (2). ``"t"``: the ablation, per frame over the features, mean absolute error
        plus ``similarity_weight`` times -log sigmoid(cos).
    centred
        True removes each dimension's mean over time first (``axis="d"`` only). Without it a
        constant equal to the mean already scores well wherever a dimension has an offset.
    heard
        True at frames that the teacher speaks of, (B, F), e.g. those inside a word; all by default.
        Only they count in the cosine, and an item of a batch weighs as many as it has.

    Returns
    -------
    Tensor
        Scalar, float32; carries gradient to every counted frame of ``student``. For ``axis="d"``
        between 0.3133 (cos 1) and 1.3133 (cos -1); 0.6931 is no relation. 0 where no frame counts.

    Raises
    ------
    ValueError
        If shapes do not match, the frame counts differ by more than one, or the axis is unknown.

    Examples
    --------
    >>> one = torch.randn(2, 50, 8)
    >>> [round(distillation_loss(one, other).item(), 4) for other in (one, -one)]
    [0.3133, 1.3133]
    """
    sizes = check_shape(student, "B F D", name="student")
    check_shape(teacher, "B frames D", name="teacher", B=sizes["B"], D=sizes["D"])
    if axis not in ("d", "t"):
        raise ValueError(f"axis: got {axis!r}, expected 'd' (over time) or 't' (per frame)")
    heard = teacher.new_ones(teacher.shape[:2]) if heard is None else heard
    check_shape(heard, "B frames", name="heard", B=sizes["B"], frames=teacher.shape[1])
    student, teacher = align_frames(student, teacher.detach())
    counted = heard[:, : student.shape[1], None].float()  # (B, F, 1)
    with torch.autocast(student.device.type, enabled=False):
        if axis == "d":
            return _over_time(student.float(), teacher.float(), counted, centred)
        return _per_frame(student.float(), teacher.float(), counted, similarity_weight)


def _over_time(student: Tensor, teacher: Tensor, counted: Tensor, centred: bool) -> Tensor:
    """Compare each dimension's trajectory (B, :, d)."""
    frames = counted.sum(1)  # (B, 1)
    if centred:
        student, teacher = (
            one - ((one * counted).sum(1) / frames.clamp_min(1))[:, None]
            for one in (student, teacher)
        )
    cosine = F.cosine_similarity(student * counted, teacher * counted, dim=1)  # (B, D)
    each = -F.logsigmoid(cosine).mean(1, keepdim=True)  # Eq. (2), (B, 1)
    return (each * frames).sum() / frames.sum().clamp_min(1)


def _per_frame(
    student: Tensor, teacher: Tensor, counted: Tensor, similarity_weight: float
) -> Tensor:
    """Compare each frame's vector (B, f, :), in value and in direction."""
    counted = counted[..., 0]  # (B, F)
    cosine = F.cosine_similarity(student, teacher, dim=2)  # (B, F)
    each = (student - teacher).abs().mean(2) - similarity_weight * F.logsigmoid(cosine)
    return (each * counted).sum() / counted.sum().clamp_min(1)


def pseudo_label_loss(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    r"""Cross-entropy of the teacher's units, predicted from the first quantizer.

    .. math:: L_{distill} = -\frac{1}{T} \sum_{t=1}^{T} u^t \log \mathrm{Softmax}(A q_1^t)

    [SpeechTokenizer], Eq. (3): u^t is the one-hot unit of frame t (``labels``), A q_1^t the
    ``logits``.

    Parameters
    ----------
    logits
        Projected output of the first quantizer, (B, F, N) with N units.
    labels
        Units, (B, F), int64 in [0, N) or ``ignore_index``; at most one frame more or fewer.
    ignore_index
        Label of frames that do not count.

    Returns
    -------
    Tensor
        Scalar in nat per frame, float32, with gradient; log N when nothing is known. 0 if every
        frame is ignored.

    Raises
    ------
    ValueError
        If shapes do not match or a label is out of range.
    TypeError
        If labels are not int64.

    Examples
    --------
    >>> labels = torch.zeros(1, 4, dtype=torch.int64)
    >>> round(pseudo_label_loss(torch.zeros(1, 4, 500), labels).item(), 3)  # log 500
    6.215
    """
    sizes = check_shape(logits, "B F N", name="logits")
    check_shape(labels, "B frames", name="labels", B=sizes["B"])
    if labels.dtype != torch.int64:
        raise TypeError(f"labels: got dtype {labels.dtype}, expected torch.int64")
    logits, labels = align_frames(logits, labels)
    counted = labels[labels != ignore_index]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < sizes["N"]:
        raise ValueError(
            f"labels: got {int(counted.min())} to {int(counted.max())}, expected 0 to "
            f"{sizes['N'] - 1} or {ignore_index}"
        )
    with torch.autocast(logits.device.type, enabled=False):
        total = F.cross_entropy(
            logits.float().flatten(0, 1),
            labels.flatten(),
            ignore_index=ignore_index,
            reduction="sum",
        )
    return total / max(1, counted.numel())  # Eq. (3)
