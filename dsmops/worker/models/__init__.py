"""The networks: tensors in, tensors out. No sockets, no clocks, no files other than weights."""
