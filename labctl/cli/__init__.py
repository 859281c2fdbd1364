"""The command line: everything that the window does, for scripts and for machines without a screen."""
