"""Published miniImageNet recipes under one common budget of training time, each result beside its claim.

python benchmarks/miniimagenet.py --minutes 120 --data-root DIR                      # on a GPU
python benchmarks/miniimagenet.py miniimagenet-5w1s-protonet --minutes 30
"""

from published import table

if __name__ == "__main__":
    table("miniimagenet", usual="miniimagenet-5w1s-*", about=__doc__)
