# Written by `python -m metabox.stubs`.

from metabox.tasks.tabular.prior import TabularPrior as TabularPrior
