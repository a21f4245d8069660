"""Pure decision: whose segment goes next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class FairShare:
    """Weighted fair queueing over jobs: the job that has had least, by weight, goes next.

    Start-time fair queueing (Goyal, Vin, Cheng, 1996) with cost 1 per segment: a job's clock runs
    on by 1/weight with each segment it gets; a newcomer starts at the slowest clock, so it neither
    waits for those before it nor makes up for the time it was not there.
    """

    clocks: dict[str, float] = field(default_factory=dict)
    served: dict[str, int] = field(default_factory=dict)

    def order(self, weights: Mapping[str, int]) -> Sequence[str]:
        """Jobs of `weights` (job -> priority 0..9), next first; forgets all others."""
        known = [clock for job, clock in self.clocks.items() if job in weights]
        start = min(known, default=0.0)
        self.clocks = {job: self.clocks.get(job, start) for job in weights}
        self.served = {job: self.served.get(job, 0) for job in weights}
        # At the same clock the one that was served less often: a newcomer goes at once.
        return sorted(weights, key=lambda job: (self.clocks[job], self.served[job]))

    def charge(self, job: str, weight: int) -> None:
        """The job got a segment. Priority p weighs p + 1."""
        self.clocks[job] = self.clocks.get(job, 0.0) + 1.0 / (weight + 1)
        self.served[job] = self.served.get(job, 0) + 1
