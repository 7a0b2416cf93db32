"""Memory that large requests left behind is given back to the system once nobody is asking.

glibc keeps freed blocks in one arena for each thread; a few images of 20 megapixels are then held for good by a server that sees only
small ones afterwards.
"""

import ctypes
import gc


def give_back() -> bool:
    """Collect garbage and trim the heap; False where the C library cannot (only glibc can)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True
