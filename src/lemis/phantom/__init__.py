"""Made-up scans with known anatomy, for the demo and for tests; ``public_sets``: in the folders of public data sets."""

from lemis.phantom.dataset import write_dataset
from lemis.phantom.scans import CHANNELS, LABELS, Kind, Phantom, make

__all__ = ["CHANNELS", "LABELS", "Kind", "Phantom", "make", "write_dataset"]
