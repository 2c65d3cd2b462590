"""The codec and the tokenizer that the tiny STT and TTS models share.

Also how their random numbers are drawn.
"""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from sentencepiece import SentencePieceTrainer

from dsmops.worker.models.loading import MIMI_CONFIG_KEY, mimi_tensors
from dsmops.worker.models.mimi import MimiConfig

TEXT_TOKENS = 320
CODEBOOKS = 8
BINS = 64
MIMI_FILE = "mimi-tiny@1.safetensors"
TOKENIZER_FILE = f"tokenizer_tiny_{TEXT_TOKENS}.model"

MIMI_BODY: dict[str, Any] = {
    "channels": 1,
    "sample_rate": 24_000,
    "frame_rate": 12.5,
    "seanet": {
        "channels": 1,
        "dimension": 32,
        "causal": True,
        "n_filters": 4,
        "n_residual_layers": 1,
        "activation": "ELU",
        "compress": 2,
        "dilation_base": 2,
        "disable_norm_outer_blocks": 0,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "norm": "none",
        "pad_mode": "constant",
        "ratios": [8, 6, 5, 4],
        "true_skip": True,
    },
    "transformer": {
        "d_model": 32,
        "num_heads": 4,
        "num_layers": 2,
        "causal": True,
        "layer_scale": 0.05,
        "context": 250,
        "conv_layout": True,
        "max_period": 10_000,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": 64,
        "input_dimension": 32,
        "output_dimensions": [32],
    },
    "quantizer": {
        "dimension": 16,
        "n_q": CODEBOOKS,
        "bins": BINS,
        "input_dimension": 32,
        "output_dimension": 32,
    },
}
"""Mimi's config, with every key that `moshi` takes. Rate, frame and hop are the released model's;
the rest is smaller."""

PAUSE_LENGTH = 4.0
"""Length of the output rows of padding and end of padding, others having 1: the best of 150 normal
values is near 2.7."""
_MIMI_GAIN = 1.4
"""Keeps a signal's size through an ELU and a convolution."""
_INPUT_GAIN = 4.0
"""Puts speech among the outer centroids, and what lies below about -55 dBFS next to the zero
one."""

_OUTPUT_GAIN = 0.015
"""Brings what is decoded from random codes to about -25 dBFS; its peaks stay below full scale."""


def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return uniform values of mean 0 and deviation 1.

    Normal ones would need logarithms, which differ between machines.
    """
    return (rng.random(shape) * 2 - 1) * math.sqrt(3)


def tiny_mimi(seed: int) -> bytes:
    """Return a safetensors file of the codec: encoder, decoder, config in the metadata."""
    rng = np.random.default_rng([seed, 1])
    config = MimiConfig.from_json(MIMI_BODY)
    # Centroids of many lengths, so that soft and loud sounds both get different codes; the first is
    # zero.
    lengths = 0.5 + 7.5 * (np.arange(BINS) / BINS) ** 2
    lengths[0] = 0
    tensors = {}
    for name, shape in sorted(mimi_tensors(config).items()):
        values = uniform(rng, shape)
        leaf = name.rpartition(".")[2]
        if leaf == "_initialized":
            values[:] = 1
        elif leaf == "cluster_usage":
            values = 1 + 0.25 * values
        elif leaf == "embedding_sum":
            values *= lengths[:, None]
        elif leaf == "bias":
            values *= 0 if name.startswith("encoder") else 0.1
        elif leaf == "scale":
            values = MIMI_BODY["transformer"]["layer_scale"] * (1 + 0.2 * values)
        elif ".norm" in name:
            values = 1 + 0.1 * values
        else:
            values *= _MIMI_GAIN / math.sqrt(math.prod(shape[1:]))
            if (
                ".block.3." in name
            ):  # half of a sum each: the residual branch is not to outgrow its trunk
                values /= 2
            elif name == "encoder.model.0.conv.conv.weight":
                values *= _INPUT_GAIN
        if name.startswith("decoder.model.14."):
            values *= _OUTPUT_GAIN
        tensors[name] = torch.from_numpy(values.astype(np.float32))
    return save(tensors, {MIMI_CONFIG_KEY: json.dumps(MIMI_BODY)})


def train_tokenizer() -> bytes:
    """Return a SentencePiece model of `TEXT_TOKENS` pieces.

    Ids 0..3 are unknown, start, end and padding, as in published ones.

    BPE because its scores are ranks: counting gives the same model everywhere.
    """
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=TEXT_TOKENS,
        character_coverage=1.0,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    return model.getvalue()


_TEXT = """\
The morning train leaves the old station at seven, and it is never late.
We walked along the river until the lights of the town came on.
Can you hear me now, or should I speak a little louder?
She read the letter twice, put it back in the drawer and said nothing.
There are three bridges over the water, and the second one is closed.
My brother works in the kitchen of a small hotel near the harbour.
It rained all night, so the garden looks green again today.
Please bring the blue chair into the other room before they arrive.
Nobody knew where the music was coming from, but everyone listened.
I would like two tickets for tomorrow evening, if there are any left.
The winter was long, the summer was short, and the harvest was good.
What time does the market open on Sunday?
He counted the boxes, wrote the number down and closed the door.
Their children learn both languages at school and mix them at home.
That question is harder than it sounds; let me think about it.
You can see the mountains from here when the weather is clear.
Le train du matin quitte la vieille gare à sept heures, et il n'est jamais en retard.
Nous avons marché le long de la rivière jusqu'à la tombée de la nuit.
Est-ce que vous m'entendez bien, ou faut-il que je parle plus fort?
Elle a relu la lettre, l'a remise dans le tiroir et n'a rien dit.
Il y a trois ponts sur le fleuve, et le deuxième est fermé.
Mon frère travaille dans la cuisine d'un petit hôtel près du port.
Il a plu toute la nuit, alors le jardin est de nouveau vert.
Apportez la chaise bleue dans l'autre pièce avant leur arrivée.
Personne ne savait d'où venait la musique, mais tout le monde écoutait.
Je voudrais deux places pour demain soir, s'il en reste encore.
L'hiver a été long, l'été a été court, et la récolte a été bonne.
À quelle heure ouvre le marché le dimanche?
Il a compté les boîtes, noté le nombre et fermé la porte.
Leurs enfants apprennent les deux langues à l'école et les mélangent à la maison.
Cette question est plus difficile qu'elle n'en a l'air; laissez-moi réfléchir.
On voit les montagnes d'ici quand le ciel est clair, ça vous plaira.
"""
"""What the tokenizer learns its pieces from."""
