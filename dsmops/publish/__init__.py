"""Publishes logs to an object store, once per content, and brings them back.

`store` says what a store promises; `stores` opens one (`folder` or `s3`). `names` and `manifest`
define the layout in the store. `source`, `plan` and `upload` publish; `pull` brings back. This
package does not know what a secret looks like: the caller hands in a scan function.
"""
