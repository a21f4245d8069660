"""The detection models: which there are, where they come from, and the folder they are kept in."""

from shared.models.added import added_names, entry_of
from shared.models.cache import check_detector, choose, is_here, locate, pull
from shared.models.catalogue import ENTRIES, ModelEntry

__all__ = [
    "ENTRIES",
    "ModelEntry",
    "added_names",
    "check_detector",
    "choose",
    "entry_of",
    "is_here",
    "locate",
    "pull",
]
