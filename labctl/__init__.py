"""labctl: run a 4f optical neural network on a real bench, or on a simulated one, call for call."""

__version__ = "0.1.0"
