"""The online read: a service resolved once (`group`), a request (`request`), entities merged (`entities`), and the result."""

from featurestore.serving.reader import Reader
from featurestore.serving.request import Rows
from featurestore.serving.result import Block, OnlineFeatures

__all__ = ["Block", "OnlineFeatures", "Reader", "Rows"]
