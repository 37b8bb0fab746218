# SPDX-License-Identifier: MIT OR Apache-2.0
"""DLPack from the side of a consumer, for memory that numpy cannot reach: dlpack.h, 1.0."""

import ctypes
from ctypes import c_char_p, c_int, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p, py_object


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class Managed(ctypes.Structure):
    _fields_ = [("tensor", DLTensor), ("manager_ctx", c_void_p), ("deleter", ctypes.CFUNCTYPE(None, c_void_p))]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("manager_ctx", c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, c_void_p)),
        ("flags", c_uint64),
        ("tensor", DLTensor),
    ]


pointer = ctypes.pythonapi.PyCapsule_GetPointer
pointer.argtypes, pointer.restype = [py_object, c_char_p], c_void_p
rename = ctypes.pythonapi.PyCapsule_SetName
rename.argtypes, rename.restype = [py_object, c_char_p], c_int

VERSIONED, LEGACY = (b"dltensor_versioned", Versioned), (b"dltensor", Managed)


class Tensor:
    """Takes the tensor out of a capsule."""

    used = {VERSIONED[0]: b"used_dltensor_versioned", LEGACY[0]: b"used_dltensor"}

    def __init__(self, capsule, kind=VERSIONED):
        name, layout = kind
        self.managed = layout.from_address(pointer(capsule, name))
        rename(capsule, self.used[name])
        tensor = self.managed.tensor
        self.device = tensor.device_type, tensor.device_id
        self.address, self.nbytes = tensor.data, tensor.shape[0]
        assert (tensor.ndim, tensor.strides[0], tensor.byte_offset) == (1, 1, 0)
        assert (tensor.code, tensor.bits, tensor.lanes) == (1, 8, 1), "they are bytes"

    def delete(self):
        self.managed.deleter(ctypes.addressof(self.managed))
