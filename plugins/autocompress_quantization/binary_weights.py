"""Weights of one bit."""

from __future__ import annotations

from autocompress_quantization.few_levels import FewLevels
from autocompress_quantization.grid import BINARY


class BinaryWeights(FewLevels):
    """Trains weights that are plus or minus one scale per output channel, and stores one bit for each.

    The scale is the channel's mean magnitude, gradients go straight through the sign where a weight is within -1..1.
    Good for size, a thirtieth of the quantized layers' bytes, where accuracy may suffer and there is time to train;
    without a long recovery the model is ruined. First and last layers stay unless told otherwise. Activations stay in
    floating point and the model runs on dequantized weights: neither its speed nor its memory changes.
    Courbariaux et al. 2015, "BinaryConnect"; Rastegari et al. 2016, "XNOR-Net" (its Binary-Weight-Networks).
    """

    name = "binary_weights"
    levels = BINARY
