"""Finds faces in some frames of a batch.

Takes `BatchMessage` (queue `infer.ARENA`), keeps the faces in the ledger, gives the same message to
compose. Holds nothing of its own; the batch stays in its decoded slot.
"""

import os

# Else ONNX Runtime (since 1.29) tells its maker about each session, from a thread of its own that
# our processes would be forked beside. It looks here when it is loaded, which nothing of this
# package is before.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
