"""`python -m shared.metrics` prints the page of all metrics."""

from __future__ import annotations

from shared.metrics.page import page

if __name__ == "__main__":
    print(page(), end="")
