"""Temporary."""
from services.encode.plan import plan_output
__all__ = ["plan_output"]
