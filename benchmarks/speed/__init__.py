"""Speed and memory beside every peer, in one run: `python -m benchmarks.speed`."""
