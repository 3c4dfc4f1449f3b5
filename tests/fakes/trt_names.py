"""Enumerations, and the logger, of the stand-in for TensorRT."""

import enum


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity


class Logger(ILogger):
    WARNING = Severity.WARNING

    def __init__(self, severity):
        self.severity = severity

    def log(self, severity, message):
        pass


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = 0, 1


class BuilderFlag(enum.IntEnum):
    FP16, INT8, PREFER_PRECISION_CONSTRAINTS = range(3)


class DataType(enum.IntEnum):
    FLOAT, HALF, INT64 = range(3)


class ProfilingVerbosity(enum.IntEnum):
    LAYER_NAMES_ONLY, NONE, DETAILED = range(3)


class MemoryPoolType(enum.IntEnum):
    WORKSPACE = 0


class TensorIOMode(enum.IntEnum):
    NONE, INPUT, OUTPUT = range(3)


class ExecutionContextAllocationStrategy(enum.IntEnum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)
