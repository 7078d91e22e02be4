"""From an empty process to the first prediction of a four-second clip: processor time and memory, with the network off.

    python benchmarks/startup.py --runs 5

Prints one JSON object: the median of the runs, and the fraction that importing torch alone takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import soundfile

from emofuse.audio import SAMPLING_RATE
from emofuse.testing import tone

OFFLINE = "import socket\ndef refuse(*_, **__): raise OSError('the network is off')\nsocket.socket.connect = refuse\n"
PREDICT = OFFLINE + "import sys\nimport emofuse\nprint(emofuse.load().predict(sys.argv[1]).label)\n"
IMPORT = "import torch\n"


def measure(code: str, *arguments: str) -> tuple[float, float]:
    """Processor seconds and greatest memory in MiB of a fresh interpreter that runs some code."""
    watch = (
        "import json, resource, subprocess, sys\n"
        "subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss]))\n"
    )
    command = [sys.executable, "-c", watch, "-c", code, *arguments]
    seconds, most = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds, most / (1024 if sys.platform != "darwin" else 1024 * 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.wav"
        soundfile.write(clip, tone(4.0, seed=0), SAMPLING_RATE)
        measure(PREDICT, str(clip))  # Once for the disk's cache.
        whole = [measure(PREDICT, str(clip)) for _ in range(runs)]
        torch_alone = [measure(IMPORT)[0] for _ in range(runs)]
    values = {
        "processor_seconds": round(statistics.median(seconds for seconds, _ in whole), 2),
        "of_which_importing_torch": round(statistics.median(torch_alone), 2),
        "memory_mib": round(max(most for _, most in whole)),
        "runs": runs,
    }
    sys.stdout.write(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
