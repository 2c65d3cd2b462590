"""Many paced streams to one server: processes that do as little as possible for each frame.

`pool` starts the processes, `__main__` is what each of them runs. `websocket` is a WebSocket client
without the comforts of `dsmops.client.connection`: no retries, no queues, one callback a message.
"""
