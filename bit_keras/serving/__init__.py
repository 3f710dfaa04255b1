"""A model server with the interfaces of TensorFlow Serving, for laptops and tests.

`bit_keras.serving.server.Server` runs it; `bit-keras serve` is the command.
"""
