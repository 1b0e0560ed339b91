"""CIFAR-FS recipes under one common budget of training time, each result beside its claim.

python benchmarks/cifar_fs.py --minutes 8 --data-root DIR                            # those made for a CPU
python benchmarks/cifar_fs.py cifarfs-5w5s-incontext-resnet12 --minutes 120          # on a GPU
"""

from published import table

JOBS = [
    {
        "writes": "cifar-fs-8min.json",
        "arguments": "--minutes 8",
        "tier": "full",
        "minutes": 40,
        "data": True,
        "threads": 1,
    },
]

if __name__ == "__main__":
    table("cifar-fs", usual="cifarfs-*-cpu", about=__doc__)
