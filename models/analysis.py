"""What a look at a picture gives, without a model: what it is, and how it will print."""

from models.print_check import PrintCheck
from models.schemas import ImageInfo


class Analysis(PrintCheck):
    """The print check of a picture as it came in, and the picture itself."""

    image: ImageInfo
