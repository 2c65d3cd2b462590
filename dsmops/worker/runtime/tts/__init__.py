"""The text-to-speech engine, its model loop, and the text state machine."""
