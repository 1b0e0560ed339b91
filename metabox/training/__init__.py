"""The outer loop and what it needs: settings, engine, checkpoints and log."""
