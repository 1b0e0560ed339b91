"""Published Omniglot recipes under one common budget of training time, each result beside its claim.

python benchmarks/omniglot.py --minutes 8 --data-root DIR
python benchmarks/omniglot.py omniglot-5w1s-maml omniglot-5w1s-incontext --minutes 1
"""

from published import table

if __name__ == "__main__":
    table("omniglot", usual="omniglot-5w1s-*", about=__doc__)
