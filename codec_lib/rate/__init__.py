r"""Dynamic frame rate [CodecSlime]: which frames become one token, and what becomes of them.

Read next: ``costs.py``, then ``schedule.py``.
"""

from codec_lib.rate.costs import COSTS, segment_costs
from codec_lib.rate.melt import Cool, Melt
from codec_lib.rate.reference import distortion, schedule_by_recurrence
from codec_lib.rate.schedule import num_segments_at, schedule
from codec_lib.rate.segments import average, repeat, token_index

__all__ = [
    "COSTS",
    "Cool",
    "Melt",
    "average",
    "distortion",
    "num_segments_at",
    "repeat",
    "schedule",
    "schedule_by_recurrence",
    "segment_costs",
    "token_index",
]
