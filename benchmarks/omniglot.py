"""Published Omniglot recipes under one common budget of training time, each result beside its claim.

python benchmarks/omniglot.py --minutes 8 --data-root DIR
python benchmarks/omniglot.py omniglot-5w1s-maml omniglot-5w1s-incontext --minutes 1
"""

from published import table

JOBS = [
    {
        "writes": "omniglot-1min.json",
        "arguments": "omniglot-5w1s-incontext omniglot-5w1s-protonet-cpu omniglot-5w1s-maml-cpu --minutes 1",
        "tier": "quick",
        "minutes": 6,
        "data": True,
        "threads": 1,
    },
    {
        "writes": "omniglot-8min.json",
        "arguments": "--minutes 8",
        "tier": "full",
        "minutes": 80,
        "data": True,
        "threads": 1,
    },
]

if __name__ == "__main__":
    table("omniglot", usual="omniglot-5w1s-*", about=__doc__)
