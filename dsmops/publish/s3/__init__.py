"""An S3 bucket as a store. The only package that imports botocore, the S3 client library.

`store` keeps the promises of `ObjectStore`. `account` opens the client and knows how to renew its
credentials; `errors` turns every error of the library into ours; `checksums` finds the checksum
that a server takes; `small_puts` sends small objects without the library's cost per request.

botocore is used without boto3. That halves the start-up, and boto3's transfer manager completes an
upload before the digest of what was sent is known.
"""
