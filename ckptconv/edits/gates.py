"""The gates of recurrent layers, which every framework packs into one matrix, each in an order of its own.

    LSTM   i input, f forget, g cell (Keras: c), o output
    GRU    r reset, z update, n new (Keras, ONNX: h)
    RNN    one alone

Sources: torch.nn.LSTM, torch.nn.GRU; docs/Operators.md of github.com/onnx/onnx; keras/src/layers/rnn.
"""

from __future__ import annotations

TORCH = {"LSTM": "ifgo", "GRU": "rzn", "RNN": "h"}
ONNX = {"LSTM": "iofg", "GRU": "zrn", "RNN": "h"}
KERAS = {"LSTM": "ifgo", "GRU": "zrn", "RNN": "h"}


def order(kind: str, theirs: dict[str, str]) -> tuple[int, ...]:
    """For each of torch's gates, in its order, the place that it has in theirs."""
    return tuple(theirs[kind].index(gate) for gate in TORCH[kind])
