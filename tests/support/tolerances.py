"""How far two computations of the same numbers may be apart, as one table.

Largest absolute difference, activations of about unit size.

Seen and allowed differ by a factor of about ten: rounding depends on the processor and on the
shapes that a library picks kernels for.
"""

from __future__ import annotations

import torch

LOGITS = {
    torch.float32: 5e-5,  # seen 3e-6; sums of up to 176 terms of about unit size, in another order
    torch.float16: 0.03,  # seen 7e-3; 11 significant bits, two layers deep
    torch.bfloat16: 0.25,  # seen 8e-2; 8 significant bits
}
"""Logits of the tiny language model, in one dtype by two ways, or in one dtype against float32.

Their scale is 4.
"""

FULL_LOGITS = 2e-4
"""Logits of a language model of published width with random weights, float32: seen 2e-6 two layers
deep, 3e-6 sixteen deep.
"""

PAUSES = {
    torch.float32: 1e-5,  # a softmax of logits
    torch.float16: 0.02,  # upstream computes the softmax in the model's dtype, we in float32
    torch.bfloat16: 0.15,
}
"""Pause probabilities, of 0 to 1."""

MIMI = 1e-5
"""Mimi's latents and PCM, float32, by two ways: seen 1e-7, at full size 1.4e-7.

Codes are compared exactly.
"""

FULL_MIMI = 5e-5
"""The same at the released size with random weights, whose latents reach 4.5: seen 9e-6."""
