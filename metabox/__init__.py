"""metabox: black-box meta-learning and multi-task learning in PyTorch."""
