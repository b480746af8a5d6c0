"""The miniature world: a small, complete and honest stand-in for the datasets and benchmarks of the real scale.

Videos and images are drawn from a seed, with ground truth, training annotations in LLaVA's format and four evaluation
suites in the formats of VNBench, MLVU, Video-MME and TempCompass.
"""

from tstar.data.miniature.config import SCALES, WorldConfig
from tstar.data.miniature.lessons import COURSES, Course, exam, lessons
from tstar.data.miniature.prompts import MLVU_ANSWER_START, MLVU_SYSTEM
from tstar.data.miniature.world import generate_world

__all__ = [
    "COURSES",
    "MLVU_ANSWER_START",
    "MLVU_SYSTEM",
    "SCALES",
    "Course",
    "WorldConfig",
    "exam",
    "generate_world",
    "lessons",
]
