"""Data sets, views and loading. Importing this registers every built-in data set and transform."""

import cv2

from passl_simsiam.data import switch
from passl_simsiam.data.datasets import cifar, digits, folder, listing, shards
from passl_simsiam.data.transforms import digits as digits_views
from passl_simsiam.data.transforms import evaluation, views

__all__ = ["cifar", "digits", "digits_views", "evaluation", "folder", "listing", "shards", "switch", "views"]

# The work is divided by images, among processes: OpenCV's own threads would only get in each other's way.
cv2.setNumThreads(0)
# What OpenCV prints about broken files is in decode.BadImage. OpenCV 4 and 5 have different names for silence.
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)
