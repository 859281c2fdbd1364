"""The desktop app: what is shown is what the engine knows, and the window never waits for the hardware."""
