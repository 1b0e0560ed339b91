"""The command line: train, evaluate, report, reproduce, sweep, check, list."""
