"""The speech-to-text engine, its model loop, and words with times."""
