"""The cases of every family: real model classes from small configurations, the oracle for the library specs."""

from __future__ import annotations

from tests.arch.families import decoders, encoders, seq2seq, tutorials, vision

ALL = [
    *tutorials.mlp(),
    *vision.vision(),
    *decoders.decoders(),
    *tutorials.lenet(),
    *decoders.gpt2(),
    *encoders.encoders(),
    *seq2seq.seq2seq(),
    *vision.clip(),
]
