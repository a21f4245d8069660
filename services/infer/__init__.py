"""Finds faces in some frames of a batch.

Takes `BatchMessage` (queue `infer.ARENA`), keeps the faces in the ledger, gives the same message to
compose. Holds nothing of its own; the batch stays in its decoded slot.
"""
