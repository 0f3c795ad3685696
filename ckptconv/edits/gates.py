"""The gates of recurrent layers. Each framework packs them into one matrix, in its own order.

    LSTM   i input, f forget, g cell (Keras: c), o output
    GRU    r reset, z update, n new (Keras, ONNX: h)
    RNN    a single one

Sources: torch.nn.LSTM, torch.nn.GRU; docs/Operators.md of github.com/onnx/onnx; keras/src/layers/rnn.
"""

from __future__ import annotations

TORCH = {"LSTM": "ifgo", "GRU": "rzn", "RNN": "h"}
ONNX = {"LSTM": "iofg", "GRU": "zrn", "RNN": "h"}
KERAS = {"LSTM": "ifgo", "GRU": "zrn", "RNN": "h"}


def order(kind: str, theirs: dict[str, str]) -> tuple[int, ...]:
    """For each gate, in torch's order, its place in the other framework's order."""
    return tuple(theirs[kind].index(gate) for gate in TORCH[kind])
