"""The detection models: which there are, where they come from, and the folder they are kept in."""

from shared.models.cache import choose, is_here, locate, pull
from shared.models.catalogue import ENTRIES, ModelEntry, entry_of

__all__ = ["ENTRIES", "ModelEntry", "choose", "entry_of", "is_here", "locate", "pull"]
