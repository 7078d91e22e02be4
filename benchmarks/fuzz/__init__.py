"""Generated and damaged inputs of every kind: each gets an answer or one of our errors, and nothing else.

    make fuzz MINUTES=60
    python -m benchmarks.fuzz --kind audio --minutes 5 --seed 7 --out fuzz-failures
    python -m benchmarks.fuzz --again fuzz-failures/audio-7-1234

Cases run in forked processes with limits on memory and time, many a process. What fails is kept as a folder of files
with `why.txt`, and shrunk to the bytes or lines that matter.
"""
