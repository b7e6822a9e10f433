"""Classifiers and data sets with a fault that strikes on the workers of a cluster only."""

import os
import signal
import time
from pathlib import Path

from tests.tiny import images, signed


class Struck:
    """Images of which one has a fault, where it is loaded by another process than this one.

    It strikes `times` times, counted by files in `folder`. Before a run the first 33 images may be
    loaded.
    """

    name, num_classes, levels = "struck/test", 3, None

    def __init__(self, folder, fault, at=45, times=1, count=60):
        self._images, self._driver = images(count), os.getpid()
        self._folder, self._fault, self._at, self._times = folder, fault, at, times

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        if index == self._at and os.getpid() != self._driver and self._strikes():
            self._fault()
        return self._images[index]

    def fingerprint(self):
        return self._images.fingerprint()

    def _strikes(self):
        for time_ in range(self._times):
            try:
                Path(self._folder, f"{time_}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def sleep():
    time.sleep(300)


def other_model():
    return signed(-1), images()


def missing_data():
    raise FileNotFoundError(2, "No such file or directory", "/data/only/at/the/driver.npz")
