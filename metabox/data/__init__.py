"""Bytes: where data lies, how files and images are read, packs, augmentation. Task distributions are in `tasks`."""
