"""The recipe of the tiny models: speech, training, evaluation, export."""
