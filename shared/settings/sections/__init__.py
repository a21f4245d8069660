"""The sections, each with its fields, in the order in which people are shown them.

Their modules go without postponed annotations: pydantic would evaluate each field's text twice, for
4 ms of every process's start.
"""

from __future__ import annotations

from shared.settings.section import Section
from shared.settings.sections.api import Api
from shared.settings.sections.gpu import Gpu
from shared.settings.sections.memory import Memory
from shared.settings.sections.monitoring import Monitoring
from shared.settings.sections.performance import Performance
from shared.settings.sections.picture import Picture
from shared.settings.sections.recovery import Recovery
from shared.settings.sections.sources import Bounds, Sources
from shared.settings.sections.storage import Storage

SECTIONS: tuple[type[Section], ...] = (
    Performance,
    Gpu,
    Memory,
    Picture,
    Storage,
    Sources,
    Bounds,
    Recovery,
    Api,
    Monitoring,
)
