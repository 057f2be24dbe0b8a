"""Weights of three values."""

from __future__ import annotations

from autocompress_quantization.few_levels import FewLevels
from autocompress_quantization.grid import TERNARY


class TernaryWeights(FewLevels):
    """Trains weights that are 0 or plus or minus one scale per output channel, and stores five of them in a byte.

    The scale is the mean magnitude of the weights beyond 0.7 times the channel's mean magnitude. Good for size, a
    twentieth of the quantized layers' bytes, with less loss than `binary_weights`; it needs a recovery too. First and
    last layers stay unless told otherwise. Activations stay in floating point and the model runs on dequantized
    weights: neither its speed nor its memory changes.
    Li et al. 2016, "Ternary Weight Networks".
    """

    name = "ternary_weights"
    levels = TERNARY
