"""Workers for tests of engines; in a file of their own, as other processes import them by name."""

import os
import signal
import time
from pathlib import Path

from memhooks.errors import InputError


def doubler(killed_at=None, mark=None, refused=None):
    """Doubles numbers; at one of them its process is killed, the first time; another it refuses."""

    def work(number):
        if number == refused:
            raise InputError(f"cannot double {number}")
        if number == killed_at and not Path(mark).exists():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return 2 * number

    return work


def killed_scanner(mark, **arguments):
    """A scan's worker that is killed once, after its first block of the second piece is on disk."""
    from memhooks.scale import scan
    from memhooks.scale.parts import Parts

    class Deadly(Parts):
        def write_block(self, piece, block, part):
            super().write_block(piece, block, part)
            if piece == 1 and not Path(mark).exists():
                Path(mark).touch()
                os.kill(os.getpid(), signal.SIGKILL)

    scan.Parts = Deadly
    scan.BLOCK = 16
    return scan.scanner(**arguments)
