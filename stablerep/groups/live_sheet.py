"""The contact sheet while groups are made: the last ones that were kept, on a page that is written anew now and then.

So people see what is made before all of it is made. Groups are given as they are kept, from any thread; drawing happens there, beside the
sampling, at most once a minute.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from stablerep.groups.contact_sheet import contact_sheet_html
from stablerep.shards.group import ImageGroup

EVERY_SECONDS = 60.0
NUM_GROUPS = 12


class LiveSheet:
    """The last groups of a lane as a page.

    Args:
        title: heading.
        write: takes the page.
        clock: seconds.
    """

    def __init__(self, title: str, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._write, self._clock = title, write, clock
        self._groups = deque[ImageGroup](maxlen=NUM_GROUPS)
        self._num_groups = self._num_images = 0
        self._written_at = clock()
        self._is_stale, self._lock = False, threading.Lock()

    def add(self, group: ImageGroup) -> None:
        """Take a group that was kept; write the page when the last one is a minute old."""
        with self._lock:
            self._groups.append(group)
            self._num_groups, self._num_images = self._num_groups + 1, self._num_images + len(group.images)
            self._is_stale = True
            if self._clock() - self._written_at < EVERY_SECONDS:
                return
            self._written_at = self._clock()
        self.close()

    def close(self) -> None:
        """Write what was not written yet."""
        with self._lock:
            if not self._is_stale:
                return
            self._is_stale = False
            groups = list(reversed(self._groups))
            facts = {"groups of this attempt": str(self._num_groups), "images": str(self._num_images)}
        self._write(contact_sheet_html(groups, title=self._title, facts=facts))
