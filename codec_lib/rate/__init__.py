r"""Dynamic frame rate [CodecSlime]: which frames become one token, and what becomes of them.

Read next: ``costs.py``, then ``schedule.py``.
"""

from codec_lib.rate.costs import COSTS, segment_costs
from codec_lib.rate.melt import Cool, Melt
from codec_lib.rate.quantized import length_bits, quantize_segments
from codec_lib.rate.reference import distortion, schedule_by_recurrence
from codec_lib.rate.schedule import num_segments_at, schedule
from codec_lib.rate.schemes import SCHEMES, segment_by
from codec_lib.rate.segments import at_frame_rate, average, repeat, token_index

__all__ = [
    "COSTS",
    "SCHEMES",
    "Cool",
    "Melt",
    "at_frame_rate",
    "average",
    "distortion",
    "length_bits",
    "num_segments_at",
    "quantize_segments",
    "repeat",
    "schedule",
    "schedule_by_recurrence",
    "segment_by",
    "segment_costs",
    "token_index",
]
