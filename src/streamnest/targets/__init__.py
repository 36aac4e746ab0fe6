"""Targets from a teacher: codes of the layer outputs of a frozen encoder, with a cache on disk."""

from streamnest.targets.cache import CodeCache
from streamnest.targets.config import TeacherConfig
from streamnest.targets.quantizer import TeacherQuantizer
from streamnest.targets.teacher import Teacher

__all__ = ["CodeCache", "Teacher", "TeacherConfig", "TeacherQuantizer"]
