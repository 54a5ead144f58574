"""Reads arrays of any library: a key of their layouts, by which plans are found, and their addresses.

NumPy arrays are read through Python's buffer protocol. Types with DLPack's C exchange API (DLPack 1.3) are
read through that: without a Python call or a capsule, and without a change to the storage. For other arrays
the caller describes the layout (`pack`).

The key is bytes: for each array its dtype, its device, its shape, its strides in bytes, and whether its
address is aligned; for None a mark. Arrays with the same layout have the same key, whatever their library.
"""

from cpython.buffer cimport PyBUF_STRIDED_RO, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from srwm._layouts import Layout

cdef extern from *:
    """
    #include <stdint.h>
    /* The parts of dlpack.h, version 1.3, that are used here. */
    typedef struct { int32_t device_type, device_id; } SrwmDevice;
    typedef struct { uint8_t code, bits; uint16_t lanes; } SrwmType;
    typedef struct {
        void *data; SrwmDevice device; int32_t ndim; SrwmType dtype; int64_t *shape, *strides;
        uint64_t byte_offset;
    } SrwmTensor;
    typedef struct { uint32_t major, minor; } SrwmVersion;
    typedef struct {
        SrwmVersion version; void *previous;
        void *allocate;
        int (*from_object)(void *, void **);
        int (*to_object)(void *, void **);
        int (*view)(void *, SrwmTensor *);
        int (*stream)(int32_t, int32_t, void **);
    } SrwmExchange;
    """
    ctypedef struct SrwmDevice:
        int32_t device_type, device_id
    ctypedef struct SrwmType:
        uint8_t code, bits
        uint16_t lanes
    ctypedef struct SrwmTensor:
        void *data
        SrwmDevice device
        int32_t ndim
        SrwmType dtype
        int64_t *shape
        int64_t *strides
        uint64_t byte_offset
    ctypedef struct SrwmVersion:
        uint32_t major, minor
    ctypedef struct SrwmExchange:
        SrwmVersion version
        int (*view)(void *, SrwmTensor *) except -1
        int (*stream)(int32_t, int32_t, void **) except -1

cdef enum:
    MOST_ARRAYS = 24
    MOST_AXES = 64  # the limit of NumPy and of torch
    HEAD = 3        # numbers of an array in addition to its shape and strides
    MOST_NUMBERS = MOST_ARRAYS * (HEAD + 2 * MOST_AXES)
    CPU = 1         # DLPack's device type

# Name of a dtype -> DLPack's type code and bits.
TYPES = {
    "float16": (2, 16), "bfloat16": (4, 16), "float32": (2, 32), "float64": (2, 64), "bool": (6, 8),
}
cdef dict _names = {code << 8 | bits: name for name, (code, bits) in TYPES.items()}


# Whether this is one of these types.
cdef inline bint is_known(int code, int bits) noexcept:
    return code == 2 and bits in (16, 32, 64) or code == 4 and bits == 16 or code == 6 and bits == 8


# A key and addresses that are being built.
cdef struct Reading:
    Py_ssize_t count
    int arrays
    uint64_t[MOST_ARRAYS] addresses
    int64_t[MOST_NUMBERS] numbers


cdef inline void begin(Reading *reading) noexcept:
    reading.count = reading.arrays = 0


# Reserves the numbers of another array with `ndim` axes; returns where they begin. NULL: too many arrays or
# axes.
cdef inline int64_t *place_for(Reading *reading, Py_ssize_t ndim) noexcept:
    if reading.arrays == MOST_ARRAYS or ndim > MOST_AXES:
        return NULL
    reading.count += HEAD + 2 * ndim
    return &reading.numbers[reading.count - HEAD - 2 * ndim]


cdef inline bint add_none(Reading *reading) noexcept:
    if reading.arrays == MOST_ARRAYS:
        return False
    reading.numbers[reading.count] = -1
    reading.count += 1
    reading.addresses[reading.arrays] = 0
    reading.arrays += 1
    return True


cdef inline void add(Reading *reading, int64_t *place, uint64_t address, int code, int bits,
                     int device_type, int device, Py_ssize_t ndim) noexcept:
    cdef bint is_freed = address == 0
    cdef Py_ssize_t i
    for i in range(ndim):
        is_freed &= place[HEAD + i] != 0
    place[0] = ndim << 32 | is_freed << 17 | (address % (bits // 8) != 0) << 16 | code << 8 | bits
    place[1], place[2] = device_type, device
    reading.addresses[reading.arrays] = address
    reading.arrays += 1


cdef tuple result_of(Reading *reading):
    cdef int i
    key = PyBytes_FromStringAndSize(<char *> &reading.numbers[0], reading.count * sizeof(int64_t))
    return key, tuple([reading.addresses[i] for i in range(reading.arrays)])


def pack(descriptions):
    """(key, addresses) of described arrays.

    descriptions: for each array None, or its address, its dtype by name, (DLPack device type, index), its
    shape, and its strides in bytes. Returns None if operators cannot compute with the dtype of an array.
    """
    cdef Reading reading
    cdef int64_t *place
    cdef Py_ssize_t i, ndim
    begin(&reading)
    for description in descriptions:
        if description is None:
            if not add_none(&reading):
                return None
            continue
        address, name, (device_type, index), shape, strides = description
        if name not in TYPES:
            return None
        code, bits = TYPES[name]
        ndim = len(shape)
        place = place_for(&reading, ndim)
        if place == NULL:
            return None
        for i in range(ndim):
            place[HEAD + i], place[HEAD + ndim + i] = shape[i], strides[i]
        add(&reading, place, address, code, bits, device_type, index, ndim)
    return result_of(&reading)


# NumPy dtype -> number of its type, -1 if unknown. A cache: dtype.name is slow.
cdef dict _numpy_types = {}


cdef int _numpy_type(object dtype) except -2:
    found = _numpy_types.get(dtype)
    if found is None:
        code, bits = TYPES.get(dtype.name, (0, 0)) if dtype.isnative else (0, 0)
        found = _numpy_types[dtype] = code << 8 | bits if code else -1
    return found


def of_numpy(tuple arrays, object ndarray):
    """(key, addresses) of NumPy arrays or None. Returns None if the type of one is not `ndarray` itself."""
    cdef Reading reading
    cdef Py_buffer buffer
    cdef int64_t *place
    cdef Py_ssize_t i
    cdef int kind
    begin(&reading)
    for a in arrays:
        if a is None:
            if not add_none(&reading):
                return None
            continue
        if type(a) is not ndarray:
            return None
        kind = _numpy_type(a.dtype)
        if kind < 0:
            return None
        PyObject_GetBuffer(a, &buffer, PyBUF_STRIDED_RO)
        place = place_for(&reading, buffer.ndim)
        if place != NULL:
            for i in range(buffer.ndim):
                place[HEAD + i], place[HEAD + buffer.ndim + i] = buffer.shape[i], buffer.strides[i]
            add(&reading, place, <uint64_t> buffer.buf, kind >> 8, kind & 255, CPU, 0, buffer.ndim)
        PyBuffer_Release(&buffer)
        if place == NULL:
            return None
    return result_of(&reading)


def addresses_of_numpy(tuple arrays):
    """The addresses of NumPy arrays; 0 for None."""
    cdef Py_buffer buffer
    cdef list addresses = []
    for a in arrays:
        if a is None:
            addresses.append(0)
            continue
        PyObject_GetBuffer(a, &buffer, PyBUF_STRIDED_RO)
        addresses.append(<uint64_t> buffer.buf)
        PyBuffer_Release(&buffer)
    return tuple(addresses)


# Array type -> the capsule of its exchange API, or None. A cache.
cdef dict _apis = {}


cdef SrwmExchange *_api_of(object kind) except? NULL:
    cdef SrwmExchange *api
    try:
        capsule = _apis[kind]
    except KeyError:
        capsule = getattr(kind, "__dlpack_c_exchange_api__", None)
        if capsule is not None:
            api = <SrwmExchange *> PyCapsule_GetPointer(capsule, b"dlpack_exchange_api")
            if api.version.major != 1:
                capsule = None
        _apis[kind] = capsule
    if capsule is None:
        return NULL
    return <SrwmExchange *> PyCapsule_GetPointer(capsule, b"dlpack_exchange_api")


cdef SrwmExchange *known_api_of(object kind) except NULL:
    cdef SrwmExchange *api = _api_of(kind)
    if api == NULL:
        raise TypeError(f"srwm: expected an array type with DLPack's C exchange API, got {kind}")
    return api


def has_api(object kind):
    """Whether arrays of this type are read by `of_exchange`."""
    return _api_of(kind) != NULL


def of_exchange(object kind, tuple arrays):
    """(key, addresses) of arrays or None, through the exchange API of their type, `kind`.

    `kind` has one, and all arrays are of this type; the type is not checked. Returns None if operators
    cannot compute with a dtype.
    """
    cdef Reading reading
    cdef SrwmExchange *api = known_api_of(kind)
    cdef SrwmTensor tensor
    cdef int64_t *place
    cdef Py_ssize_t i
    cdef uint64_t address
    cdef int bytes_each
    begin(&reading)
    for a in arrays:
        if a is None:
            if not add_none(&reading):
                return None
            continue
        api.view(<void *> a, &tensor)
        place = place_for(&reading, tensor.ndim)
        if place == NULL or not is_known(tensor.dtype.code, tensor.dtype.bits):
            return None
        bytes_each = tensor.dtype.bits // 8
        for i in range(tensor.ndim):
            place[HEAD + i] = tensor.shape[i]
            place[HEAD + tensor.ndim + i] = tensor.strides[i] * bytes_each
        address = <uint64_t> tensor.data + tensor.byte_offset
        add(&reading, place, address, tensor.dtype.code, tensor.dtype.bits, tensor.device.device_type,
            tensor.device.device_id, tensor.ndim)
    return result_of(&reading)


def addresses_of_exchange(object kind, tuple arrays):
    """The addresses of arrays of the type `kind`; 0 for None."""
    cdef SrwmExchange *api = known_api_of(kind)
    cdef SrwmTensor tensor
    cdef list addresses = []
    for a in arrays:
        if a is None:
            addresses.append(0)
            continue
        api.view(<void *> a, &tensor)
        addresses.append(<uint64_t> tensor.data + tensor.byte_offset)
    return tuple(addresses)


def current_stream(object kind, int device_type, int device_id):
    """The handle of the current stream of an array library, through the exchange API of its type."""
    cdef void *stream = NULL
    known_api_of(kind).stream(device_type, device_id, &stream)
    return <uint64_t> stream


def unpack(bytes key):
    """The layouts in a key, as a list; None where there is no array."""
    cdef const int64_t *numbers = <const int64_t *> <const char *> key
    cdef Py_ssize_t i, at = 0, count = len(key) // <Py_ssize_t> sizeof(int64_t), ndim, size
    cdef list layouts = []
    cdef bint is_aligned
    while at < count:
        if numbers[at] < 0:
            layouts.append(None)
            at += 1
            continue
        ndim, size = numbers[at] >> 32, (numbers[at] & 0xff) // 8
        shape = tuple([numbers[at + HEAD + i] for i in range(ndim)])
        strides = tuple([numbers[at + HEAD + ndim + i] for i in range(ndim)])
        is_aligned = not numbers[at] >> 16 & 1
        for i in range(ndim):
            is_aligned &= numbers[at + HEAD + ndim + i] % size == 0
        device = numbers[at + 1], numbers[at + 2]
        has_memory = not numbers[at] >> 17 & 1
        layouts.append(Layout(shape, strides, _names[numbers[at] & 0xffff], device, is_aligned, has_memory))
        at += HEAD + 2 * ndim
    return layouts
