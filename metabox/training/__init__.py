"""The outer loop, and what it needs: settings, the engine, checkpoints, the log."""
