"""Encodes batches to chunks, and joins chunks and the original sound into the result.

Takes `BatchMessage` of a composed slot (queue `encode.ARENA`) and `MuxMessage` (queue `mux`); gives
chunks and the result to the store. Gives the composed slot back when the chunk is stored.
"""
