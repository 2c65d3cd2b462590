"""Logs to an object store, once per content, and back: a store behind one door, bodies addressed by digest, manifests that only grow.

`store` is the door (`s3`, `local` behind it), `names` and `manifest` the layout, `source`, `plan`
and `upload` the way out, `pull` the way back. What a secret looks like is not known here: a scan
function is handed in.
"""
