"""The exercises of the tour are those of other pages: whoever has done one here has done it there.

Where a message points to a section, it is the tour's: `on_page` maps the sections of the other page to those here.
"""

from lora_course.checking.grading import beside
from lora_course.nb00 import check as nb00
from lora_course.nb01 import check as nb01
from lora_course.nb04 import check as nb04
from lora_course.nb06 import check as nb06
from lora_course.nb09 import check as nb09

__all__ = ["beside", "input_gradient", "largest_saving_rank", "lora_layer", "normal_float", "training_gigabytes"]

training_gigabytes = nb00.training_gigabytes.on_page({})
largest_saving_rank = nb01.largest_saving_rank.on_page({4: 2})
lora_layer = nb04.lora_layer.on_page({1: 3})
normal_float = nb06.normal_float.on_page({})
input_gradient = nb09.input_gradient.on_page({3: 7})
