"""What the client, the batches and the webhooks cost, against the floor, the peers and the careful user.

One module for each question; ``python -m benchmarks`` asks all of them. See ``README.md``.
"""
