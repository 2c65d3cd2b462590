"""Artefacts to an object store, once per content, and back."""
